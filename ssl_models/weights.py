"""Trained weights from files of several formats, as plain tensors; nothing but tensors is unpickled."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from population.errors import InputError

_TORCH_ENDINGS = (".pt", ".pth", ".th")
ENDINGS = (".safetensors", *_TORCH_ENDINGS)

#: Where training scripts keep the weights beside other things, in the order in which they are looked up.
_PARTS = ("state_dict", "model")

#: Before every name where the network was wrapped for training on several GPUs.
_WRAPPED = "module."

#: Names that a message shows.
_SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a network.

    Args:
        path: a .safetensors file, or a .pt, .pth or .th file that holds a state dict, itself or under
            ``state_dict`` or ``model``. The latter are read with ``weights_only=True``, so that no code in
            them runs.

    Returns:
        Tensors by name, on the CPU, without the prefix ``module.`` if all names have it; half precision
        becomes float32.

    Raises:
        InputError: if the file is absent, damaged, of another kind, holds no state dict, or a value in it
            is NaN or infinite.
    """
    if not path.is_file():
        raise InputError(f"no such file of weights: {path}")
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} is of an unknown kind; allowed endings: {', '.join(ENDINGS)}")
    tensors = _read_torch(path) if path.suffix in _TORCH_ENDINGS else _read_safetensors(path)
    if all(name.startswith(_WRAPPED) for name in tensors):
        tensors = {name.removeprefix(_WRAPPED): tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} has NaN or infinite values")
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error
    if not tensors:
        raise InputError(f"{path} holds no tensors")
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, or is damaged; nothing else is unpickled:"
            " save the network's state_dict() alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a readable file of torch.save") from error
    parts = [content[p] for p in _PARTS if isinstance(content, Mapping) and p in content]
    for part in (*parts, content):
        if isinstance(part, Mapping) and part and all(isinstance(t, Tensor) for t in part.values()):
            return {str(name): tensor.detach() for name, tensor in part.items()}
    raise InputError(f"{path} holds no state dict, neither itself nor under {' or '.join(map(repr, _PARTS))}")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives a network the weights of a file, in place; all of them, and no others.

    Args:
        network: its own weights are overwritten.
        tensors: from ``read_weights``.
        path: named in messages.

    Raises:
        InputError: if tensors are missing, unexpected or of another shape; names the first few.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    # Files from before torch 0.4.1 lack these counts; the network's zeros stand for them.
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in tensors if n not in expected]
    wrong = [n for n in tensors if n in expected and tuple(tensors[n].shape) != expected[n]]
    faults = [
        f"{what} {_few(names)}" for what, names in (("lacks", missing), ("has unknown", unexpected)) if names
    ]
    faults += [f"has {n} of shape {list(tensors[n].shape)}, not {list(expected[n])}" for n in wrong[:1]]
    if faults:
        raise InputError(f"{path} does not fit the network: it {'; it '.join(faults)}")
    network.load_state_dict(dict(tensors), strict=False)


def _few(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
