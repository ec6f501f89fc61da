"""A copy of a network in which every ReLU module is called once per forward pass.

DeepLift keeps the inputs and outputs of every nonlinearity in its module, so a module that is called
twice (as in torchvision's residual blocks) or a function in its place has no rule of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analysis.inference import device_of, evaluating
from population.errors import InputError

_RELU = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
# What Captum has a rule for besides ReLU; such a module is kept, and has to be called once.
_OTHER_RULES = (
    nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip
_ROUNDING = 1e-4


def one_relu_per_call(model: nn.Module, example: Tensor) -> nn.Module:
    """Copies a network so that every call of a ReLU goes through a module of its own.

    While the copy runs, ``nn.ReLU``, ``F.relu``, ``torch.relu`` and their in-place forms are answered by
    one new ``nn.ReLU`` per call, in the order of the calls. ``nn.ReLU6`` and ``nn.Hardtanh`` become a
    difference of two of them: ``min(max(x, a), b) = a + relu(x - a) - relu(x - b)``.

    Args:
        model: any module from images to class scores; it is not changed.
        example: a batch that the model accepts, shape (N, C, H, W).

    Returns:
        A module in evaluation mode with the same outputs, whose attribute ``relus`` holds the ReLUs. It
        shares no tensor with the model.

    Raises:
        InputError: if another nonlinearity is called more than once per pass, or the copy's outputs are
            not the model's (a ReLU that works in place on a tensor that is used elsewhere, say).
    """
    example = example.to(device_of(model))
    network = deepcopy(model).eval()
    for module in network.modules():
        if type(module) is nn.ReLU:
            module.__class__ = _HiddenReLU
    relus: list[nn.Module] = []
    with evaluating(model), torch.no_grad():
        expected = model(example)
        with _counted_calls(network) as calls, _Routed(_created(relus)):
            network(example)
        repeated = sorted(name for name, count in calls.items() if count > 1)
        if repeated:
            raise InputError(f"{', '.join(repeated)}: called more than once per pass, and no ReLU")
        copy = _OneReluPerCall(network, nn.ModuleList(relus)).eval()
        if not torch.allclose(copy(example), expected, rtol=_ROUNDING, atol=_ROUNDING):
            raise InputError("the network's ReLUs cannot be called one by one: its outputs would change")
    return copy


class _HiddenReLU(nn.ReLU):
    """A ReLU whose call is answered elsewhere; its type is none for which Captum has a rule."""


class _OneReluPerCall(nn.Module):
    def __init__(self, network: nn.Module, relus: nn.ModuleList) -> None:
        super().__init__()
        self.network = network
        self.relus = relus

    def forward(self, x: Tensor) -> Tensor:
        with _Routed(iter(self.relus)):
            scores: Tensor = self.network(x)
        return scores


class _Routed(TorchFunctionMode):
    """Answers the ReLUs of this thread by the next of some modules."""

    def __init__(self, relus: Iterator[nn.Module]) -> None:
        super().__init__()
        self._relus = relus

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called for every function of torch in place of it."""
        del types
        options = dict(kwargs or {})
        if func in _RELU:
            return self._relu(*args, **options)
        if func is F.hardtanh:
            return self._clipped(*args, **options)
        if func is F.relu6:
            return self._clipped6(*args, **options)
        return func(*args, **options)

    def _relu(self, input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 - torch's name
        relu = next(self._relus, None)
        if relu is None:
            raise InputError("the number of the network's ReLUs depends on its input")
        result: Tensor = relu(input)
        return result

    def _clipped(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
    ) -> Tensor:
        return min_val + self._relu(input - min_val) - self._relu(input - max_val)

    def _clipped6(self, input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 - torch's name
        return self._clipped(input, 0.0, 6.0)


def _created(relus: list[nn.Module]) -> Iterator[nn.Module]:
    """As many new ReLUs as are asked for; each is put at the end of the list."""
    while True:
        relus.append(nn.ReLU())
        yield relus[-1]


@contextmanager
def _counted_calls(network: nn.Module) -> Iterator[Counter[str]]:
    """Counts by name how often modules are called that have a rule of their own."""
    calls: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., None]:
        return lambda *_: calls.update([name])

    handles = [
        module.register_forward_hook(counter(name))
        for name, module in network.named_modules()
        if isinstance(module, _OTHER_RULES)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
