import numpy as np
import torch
from torch import Tensor, nn

from population.samples import SampleSet
from ssl_models.predict import batches, predict

N = 503  # one full batch and a short one


class Linear(nn.Module):
    """A classifier of 2x3 images that notes the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def test_probabilities_labels_and_margins_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Linear().eval()
    with torch.no_grad():
        model.layer.weight.mul_(20)
    images = rng.integers(0, 256, (N, 1, 2, 3)).astype(np.uint8)
    samples = SampleSet(np.array([f"s{i}" for i in range(N)]), rng.integers(0, 4, N), ("a", "b", "c", "d"))
    found = predict(model, torch.from_numpy(images), samples)

    weight, bias = (p.detach().numpy().astype(np.float64) for p in model.layer.parameters())
    logits = images.reshape(N, 6) / 255 @ weight.T + bias
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    ordered = np.sort(expected, axis=1)
    assert (found.k, found.n) == (1, N)
    np.testing.assert_array_equal(found.predicted[0], expected.argmax(1))
    np.testing.assert_allclose(found.probabilities[0], expected, atol=1e-5)
    np.testing.assert_allclose(found.margin[0], ordered[:, -1] - ordered[:, -2], atol=1e-5)
    np.testing.assert_array_equal(found.sample_id, samples.sample_id)
    np.testing.assert_array_equal(found.label, samples.label)
    assert found.class_names.tolist() == ["a", "b", "c", "d"]
    assert len(np.unique(found.predicted)) > 1


def test_batches_are_floats_in_order() -> None:
    images = torch.arange(7 * 2 * 3 * 3).reshape(7, 2, 3, 3).to(torch.uint8)
    parts = list(batches(images, size=3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), images.float() / 255)
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in parts)
    assert list(batches(images[:0])) == []


def test_grey_images_have_the_same_strides_wherever_they_come_from() -> None:
    plain = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    odd = torch.zeros(4, 6, 6, 1, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert plain.stride() != odd.stride()
    strides = {part.stride() for images in (plain, odd) for part in batches(images, size=4)}
    assert strides == {(36, 1, 6, 1)}


def test_a_model_never_sees_more_than_a_batch() -> None:
    model = Linear().eval()
    samples = SampleSet(np.arange(N).astype(str), np.zeros(N, dtype=np.int64), ("a",) * 4)
    predict(model, torch.zeros(N, 1, 2, 3, dtype=torch.uint8), samples)
    assert [len(x) for x in model.seen] == [500, 3]
