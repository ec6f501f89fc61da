import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.grand import gradient_norms
from population.errors import InputError
from ssl_models import build_model

CLASSES = 4


def convolutional(seed: int) -> nn.Sequential:
    """With a norm whose running statistics are not those of any batch."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model


def drawn(n: int, shape: tuple[int, ...] = (2, 7, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator)
    return images, torch.randint(CLASSES, (n,), generator=generator)


def one_by_one(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Backward passes of single images, in double precision."""
    model = model.double().eval()
    norms = []
    for image, label in zip(images.double(), labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_norms_are_those_of_images_taken_one_by_one(batch_size: int) -> None:
    images, labels = drawn(11)
    found = gradient_norms([convolutional(0)], images, labels, batch_size=batch_size)
    assert (found.shape, found.dtype) == ((11,), torch.float64)
    torch.testing.assert_close(found, one_by_one(convolutional(0), images, labels), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["r18", "r50", "wrn16_2", "mobilenet_v2", "vgg11_bn"])
def test_every_encoder_is_differentiated(name: str) -> None:
    def network() -> nn.Module:
        return build_model(f"supervised_{name}", num_classes=CLASSES, in_channels=1, width=4, seed=0)

    # In float32, rounding decides the sign of some inputs of ReLU, and with it the fifth digit of a norm.
    images, labels = drawn(3, (1, 32, 32), seed=1)
    found = gradient_norms([network().double()], images.double(), labels, batch_size=2)
    torch.testing.assert_close(found, one_by_one(network(), images, labels), rtol=1e-9, atol=0)


def test_softmax_regression_has_a_closed_form() -> None:
    # The gradient is (p - onehot) times (image, 1), so its norm is a product of two norms.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(98, CLASSES)).double()
    images, labels = drawn(9)
    error = model(images.double()).softmax(1).detach() - F.one_hot(labels, CLASSES)
    expected = error.norm(dim=1) * (images.double().flatten(1).square().sum(1) + 1).sqrt()
    found = gradient_norms([model], images.double(), labels, batch_size=4)
    torch.testing.assert_close(found, expected)


def test_several_models_are_averaged_and_may_come_one_after_the_other() -> None:
    images, labels = drawn(6)
    single = [gradient_norms([convolutional(seed)], images, labels, batch_size=6) for seed in range(3)]
    together = gradient_norms((convolutional(seed) for seed in range(3)), images, labels, batch_size=6)
    torch.testing.assert_close(together, torch.stack(single).mean(0))
    assert not torch.allclose(single[0], single[1])


def test_frozen_weights_count_too() -> None:
    images, labels = drawn(4)
    frozen = convolutional(0).requires_grad_(False)
    found = gradient_norms([frozen], images, labels, batch_size=4)
    torch.testing.assert_close(found, gradient_norms([convolutional(0)], images, labels, batch_size=4))


@given(st.permutations(range(7)), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_no_image_has_a_say_in_the_norm_of_another(order: list[int], batch_size: int) -> None:
    images, labels = drawn(7)
    whole = gradient_norms([convolutional(0)], images, labels, batch_size=7)
    found = gradient_norms([convolutional(0)], images[order], labels[order], batch_size=batch_size)
    torch.testing.assert_close(found, whole[order], rtol=1e-5, atol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = convolutional(0).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradient_norms([model], *drawn(5), batch_size=2)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_images_that_are_fitted_have_small_norms() -> None:
    images, labels = drawn(60)
    wrong = torch.arange(60) < 6
    labels = (images.mean(dim=(1, 2, 3)) > images.mean()).long()
    given_labels = torch.where(wrong, 1 - labels, labels)
    model = convolutional(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images[~wrong]), labels[~wrong]).backward()
        optimizer.step()
    norms = gradient_norms([model], images, given_labels, batch_size=60)
    assert norms[wrong].median() > 3 * norms[~wrong].median()


def test_what_does_not_fit_is_an_error() -> None:
    images, labels = drawn(5)
    model = convolutional(0)
    with pytest.raises(InputError, match=r"N >= 1, not \(5, 2, 7, 7\) and \(4,\)"):
        gradient_norms([model], images, labels[:4], batch_size=2)
    with pytest.raises(InputError, match="N >= 1"):
        gradient_norms([model], images[:0], labels[:0], batch_size=2)
    for unfit in (labels - 4, labels.float()):
        with pytest.raises(InputError, match="labels must be class indices: int64, none below 0"):
            gradient_norms([model], images, unfit, batch_size=2)
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        gradient_norms([model], images, labels, batch_size=0)
    with pytest.raises(InputError, match="at least one model"):
        gradient_norms([], images, labels, batch_size=2)
    with pytest.raises(InputError, match=r"label 4 is no class of a model whose scores are \(1, 4\)"):
        gradient_norms([model], images, torch.full_like(labels, CLASSES), batch_size=2)
