"""Networks of other libraries by name, and those that a user's function builds."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from population.errors import InputError, unknown_name

#: Stride and padding of a ResNet's first convolution, by the size of its kernel.
_STEMS = {3: (1, 1), 7: (2, 3)}

#: Makes a network from the tensors that it is going to hold, which say what its name leaves open.
Build = Callable[[Mapping[str, Tensor]], nn.Module]


def named_network(name: str, *, num_classes: int, in_channels: int) -> tuple[Build, str]:
    """Finds a network of torchvision or timm.

    Where both libraries have the name, it is torchvision's.

    Args:
        name: as the library lists it.
        num_classes: outputs.
        in_channels: of the images; torchvision's networks take it from their weights, see
            ``fit_first_layers``.

    Returns:
        What builds it, which can be pickled, and the library with its version.

    Raises:
        InputError: if no installed library has the name.
    """
    from torchvision import models

    known = set(models.list_models(module=models))
    if name in known:
        return partial(_torchvision, name, num_classes), f"torchvision {version('torchvision')}"
    if find_spec("timm") is None:
        raise InputError(f"{unknown_name('torchvision network', name, known)}; timm is not installed")
    timm = import_module("timm")
    if not timm.is_model(name):
        raise unknown_name("network", name, known | set(timm.list_models()))
    return partial(_timm, name, num_classes, in_channels), f"timm {version('timm')}"


def _torchvision(name: str, num_classes: int, tensors: Mapping[str, Tensor]) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    fit_first_layers(network, tensors)
    return network


def _timm(name: str, num_classes: int, in_channels: int, tensors: Mapping[str, Tensor]) -> nn.Module:
    timm = import_module("timm")
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels
    )
    fit_first_layers(network, tensors)
    return network


def fit_first_layers(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a ResNet the first layers that its weights were trained with, in place.

    Only networks with a convolution ``conv1`` and a pooling ``maxpool`` are changed, and only where
    ``conv1.weight`` has another shape in the file. A 3×3 kernel means the stem for small images that is
    used on CIFAR: stride 1, padding 1 and no max-pooling. A 7×7 kernel means the usual one, stride 2 and
    padding 3, for another number of input channels.

    Args:
        network: changed in place.
        tensors: by name.
    """
    first, weight = getattr(network, "conv1", None), tensors.get("conv1.weight")
    if not isinstance(first, nn.Conv2d) or not hasattr(network, "maxpool") or weight is None:
        return
    if weight.ndim != 4 or weight.shape == first.weight.shape:
        return
    size = weight.shape[2] if weight.shape[2] == weight.shape[3] else None
    if size in _STEMS:
        stride, padding = _STEMS[size]
        network.conv1 = nn.Conv2d(
            weight.shape[1], first.out_channels, size, stride, padding, bias=first.bias is not None
        )
    if size == 3:
        network.maxpool = nn.Identity()


def built_network(place: str) -> tuple[Build, str]:
    """Finds a user's function, or the class of a network.

    Args:
        place: ``package.module:function``, called without arguments; modules in the working folder are
            found too.

    Returns:
        What calls it, which can be pickled, and the digest of the source file that defines it. Files
        that this one imports are not in the digest.

    Raises:
        InputError: if there is no such function.
    """
    source = inspect.getsourcefile(import_module(_function(place).__module__))
    if source is None:
        raise InputError(f"--model {place}: the function has no source file")
    return partial(_built, place), hashlib.sha256(Path(source).read_bytes()).hexdigest()[:32]


def _function(place: str) -> Callable[[], object]:
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise InputError(f"--model {place}: cannot import {module_name!r} ({error})") from error
    function = getattr(module, name, None)
    if not (inspect.isfunction(function) or inspect.isclass(function)):
        raise InputError(f"--model {place}: {module_name} has no function or class {name!r}")
    return function


def _built(place: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    del tensors  # the function alone says what the network is
    network = _function(place)()
    if not isinstance(network, nn.Module):
        raise InputError(f"--model {place} returns a {type(network).__name__}, not a torch.nn.Module")
    return network
