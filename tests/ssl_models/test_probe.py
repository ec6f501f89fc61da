import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_models import build_model
from ssl_models.probe import extract_features, fit_probe, logistic_regression


def blobs(classes: int, *, constant: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(120) % classes
    features = rng.normal(size=(120, 6)) * [1, 10, 0.01, 1, 5, 1] + 3
    features[:, 0] += labels
    features[:, 4] -= 4 * labels
    if constant:
        features[:, 5] = 7
    return features, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("constant", [False, True])
def test_it_is_scikit_learns_pipeline(classes: int, constant: bool) -> None:
    features, labels = blobs(classes, constant=constant)
    weight, bias = logistic_regression(features, labels)
    assert weight.shape == (classes, 6)
    assert bias.shape == (classes,)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(features, labels)
    held_out = features + np.random.default_rng(9).normal(size=features.shape)
    held_out[:, 5] = features[:, 5]
    logits = held_out @ weight.T + bias
    np.testing.assert_allclose(softmax(logits), pipeline.predict_proba(held_out), atol=1e-9)
    np.testing.assert_array_equal(logits.argmax(1), pipeline.predict(held_out))
    assert (pipeline.predict(features) == labels).mean() > 0.6


def test_the_scale_of_a_feature_does_not_matter() -> None:
    features, labels = blobs(3)
    scales = np.array([1e3, 1, 1, 1e-3, 5, 1])
    weight, bias = logistic_regression(features, labels)
    scaled_weight, scaled_bias = logistic_regression(features * scales + 2, labels)
    np.testing.assert_allclose(
        softmax((features * scales + 2) @ scaled_weight.T + scaled_bias),
        softmax(features @ weight.T + bias),
        atol=1e-4,
    )


def test_features_are_those_of_the_encoder() -> None:
    model = build_model("simclr_r18", num_classes=3, in_channels=1, width=2, seed=0, mean=[0.5], std=[0.25])
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16)).astype(np.uint8))
    with torch.no_grad():
        expected = model.encoder((images.float() / 255 - 0.5) / 0.25).double().numpy()
    found = extract_features(model, images)
    assert found.shape == (5, 16)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_fitting_changes_the_head_alone(classes: int) -> None:
    model = build_model("simclr_r18", num_classes=classes, in_channels=1, width=2, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = np.arange(40) % classes
    pixels = np.random.default_rng(0).integers(0, 80, (40, 1, 16, 16)) + 80 * labels[:, None, None, None]
    images = torch.from_numpy(pixels.astype(np.uint8))
    fit_probe(model, images, labels)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    features = extract_features(model, images)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(features, labels)
    with torch.no_grad():
        probabilities = model(images.float() / 255).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(features), atol=1e-4)
    assert (probabilities.argmax(1) == labels).mean() > 0.9
