import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import analysis.depth as depth_module
from analysis.depth import label_depth, prediction_depth, settled_depth
from population.errors import InputError


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip


def pictures(n: int, *, seed: int) -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.normal(size=(n, 1, 6, 6)) + 0.4 * labels[:, None, None, None]
    return torch.from_numpy(images), labels


def test_depths_by_hand() -> None:
    probes = np.array(
        [
            [0, 1, 1, 0, 1, 2],
            [0, 0, 0, 0, 1, 2],
            [0, 0, 1, 0, 1, 2],
            [0, 0, 0, 1, 1, 2],
        ]
    )
    final = np.array([0, 0, 0, 0, 0, 2])
    labels = np.array([0, 0, 1, 1, 1, 0])
    assert settled_depth(probes, final).tolist() == [0, 1, 3, 4, 4, 0]
    assert label_depth(probes, labels).tolist() == [1, 1, 4, 3, 1, 4]


@given(arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.integers(0, 2)))
def test_depths_are_those_of_the_definitions_sample_by_sample(probes: np.ndarray) -> None:
    target = np.arange(probes.shape[1]) % 2
    depth, against_label = [], []
    for column, wanted in zip(probes.T.tolist(), target.tolist(), strict=True):
        depth.append(next(d for d in range(len(column) + 1) if all(probe == wanted for probe in column[d:])))
        last_wrong = 0
        for position, probe in enumerate(column):
            if probe != wanted:
                last_wrong = position
        against_label.append(last_wrong + 1)
    assert settled_depth(probes, target).tolist() == depth
    assert label_depth(probes, target).tolist() == against_label


def test_probes_are_scikit_learns_on_the_averaged_outputs_of_the_layers() -> None:
    model = small_network()
    model[1].eval()
    (train, train_labels), (images, labels) = pictures(120, seed=0), pictures(50, seed=1)
    found = prediction_depth(model, train, train_labels, images, ["0", "2", "5"], k=7, batch_size=32, seed=0)
    assert model[0].training
    assert not model[1].training
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    with torch.no_grad():
        final = model(images).argmax(1).numpy()
        for row, stop in zip(found.probes, (1, 3, 6), strict=True):
            a, b = (model[:stop](part) for part in (train, images))
            if a.ndim == 4:
                a, b = a.mean((2, 3)), b.mean((2, 3))
            expected = KNeighborsClassifier(7).fit(a.numpy(), train_labels).predict(b.numpy())
            np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(found.final, final)
    np.testing.assert_array_equal(found.depth, settled_depth(found.probes, final))
    assert found.layers == ("0", "2", "5")
    assert found.training_images == 120
    assert len(set(found.depth.tolist())) > 2
    assert (found.probes[0] == labels).mean() > 0.5


def test_a_training_image_is_its_own_nearest_neighbour() -> None:
    train, train_labels = pictures(60, seed=2)
    found = prediction_depth(
        small_network(), train, train_labels, train, ["0", "5"], k=1, batch_size=16, seed=0
    )
    assert (found.probes == train_labels).all()
    assert set(np.unique(found.depth)) == {0, 2}


def test_rotating_the_features_of_a_layer_changes_no_probe() -> None:
    torch.manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    turn, back = (nn.Linear(12, 12, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        turn.weight.copy_(rotation)
        back.weight.copy_(rotation.T)
    plain = small_network().eval()
    turned = nn.Sequential(*plain[:6], turn, back, plain[6])
    (train, train_labels), (images, _) = pictures(120, seed=3), pictures(80, seed=4)
    found = prediction_depth(turned, train, train_labels, images, ["2", "5", "6"], batch_size=64, seed=0)
    expected = prediction_depth(plain, train, train_labels, images, ["2", "5"], batch_size=64, seed=0)
    np.testing.assert_array_equal(found.probes, expected.probes[[0, 1, 1]])
    np.testing.assert_array_equal(found.final, expected.final)
    depths = set(zip(expected.depth.tolist(), found.depth.tolist(), strict=True))
    assert depths == {(0, 0), (1, 1), (2, 3)}


def test_of_too_many_training_images_a_sample_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_network()
    (train, train_labels), (images, _) = pictures(200, seed=5), pictures(60, seed=6)

    def probes(seed: int, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        found = prediction_depth(
            model, train[chosen], train_labels[chosen], images, ["2", "5"], k=5, batch_size=64, seed=seed
        )
        assert found.training_images == 40
        return found.probes

    monkeypatch.setattr(depth_module, "MAX_TRAINING_IMAGES", 40)
    drawn = np.random.default_rng(1).choice(200, 40, replace=False)
    np.testing.assert_array_equal(probes(1), probes(0, drawn))
    np.testing.assert_array_equal(probes(1), probes(1))
    assert (probes(1) != probes(2)).any()


def noisy_digits() -> tuple[Tensor, np.ndarray]:
    """Digits with strong noise in 6 of 64 directions, which a network learns to leave out."""
    digits = load_digits()
    rng = np.random.default_rng(0)
    directions, _ = np.linalg.qr(rng.normal(size=(64, 6)))
    pixels = digits.data / 16 + 4 * rng.normal(size=(len(digits.data), 6)) @ directions.T
    order = rng.permutation(len(pixels))
    return torch.from_numpy(pixels[order]).float(), digits.target[order]


def trained_mlp(inputs: Tensor, labels: np.ndarray, *, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    targets = torch.from_numpy(labels)
    for _ in range(150):
        batch = torch.randperm(len(inputs))[:200]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return model


def test_later_layers_know_more_and_ambiguous_digits_are_settled_later() -> None:
    inputs, labels = noisy_digits()
    train, test, known, truth = inputs[:900], inputs[900:], labels[:900], labels[900:]
    models = [trained_mlp(train, known, seed=seed) for seed in range(3)]
    found = [prediction_depth(m, train, known, test, ["1", "3", "5"], batch_size=300, seed=0) for m in models]
    with torch.no_grad():
        probabilities = torch.stack([model(test).softmax(1) for model in models]).mean(0)
    first, second = probabilities.topk(2, dim=1).values.numpy().T
    for result in found:
        accuracy = (result.probes == truth).mean(axis=1)
        assert accuracy[0] < accuracy[2] - 0.1
        wrong = result.final != truth
        assert result.depth[wrong].mean() > result.depth[~wrong].mean() + 0.5
    depth = np.mean([result.depth for result in found], axis=0)
    assert spearmanr(depth, first - second).statistic < -0.5


def test_input_that_does_not_fit_is_refused() -> None:
    model = small_network()
    train, labels = pictures(40, seed=7)
    with pytest.raises(InputError, match="at least one layer"):
        prediction_depth(model, train, labels, train, [], batch_size=8, seed=0)
    with pytest.raises(InputError, match=r"40 training images need labels of shape \(40,\), not \(39,\)"):
        prediction_depth(model, train, labels[1:], train, ["0"], batch_size=8, seed=0)
    with pytest.raises(InputError, match="training labels must be from 0 to 2"):
        prediction_depth(model, train, labels + 1, train, ["0"], batch_size=8, seed=0)
    with pytest.raises(InputError, match="unknown layer 'conv'"):
        prediction_depth(model, train, labels, train, ["conv"], batch_size=8, seed=0)
    for function in (settled_depth, label_depth):
        with pytest.raises(InputError, match=r"shapes \(L, N\) and \(N,\), not \(4, 3\) and \(4,\)"):
            function(np.zeros((4, 3), dtype=np.int64), np.zeros(4, dtype=np.int64))
    broken = small_network()
    with torch.no_grad():
        broken[6].bias[1] = torch.nan
    with pytest.raises(InputError, match="must be finite"):
        prediction_depth(broken, train, labels, train, ["0"], batch_size=8, seed=0)
