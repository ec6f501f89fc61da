"""Training that was stopped goes on from its last checkpoint, and ends with the same bits."""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from population.preemption import Notice
from ssl_models.hooks import TrainingHook

#: Least time between two checkpoints; what a killed run loses at most.
SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that the rest of a training depends on.

    Attributes:
        step: optimizer steps taken.
        tensors: by name: weights, moments, masks, random state, order of images.
        losses: mean loss of each finished epoch.
    """

    step: int
    tensors: Mapping[str, Tensor]
    losses: tuple[float, ...]


class Checkpoints:
    """One file that is replaced now and then while a member trains.

    Attributes:
        folder: where the file is; made when first needed.
        seconds: least time between two checkpoints.
        notice: when given, the next checkpoint is due at once, and answers it.
    """

    def __init__(self, folder: Path, *, seconds: float = SECONDS, notice: Notice | None = None) -> None:
        self.folder = folder
        self.seconds = seconds
        self.notice = notice
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        noticed = self.notice is not None and self.notice.given
        return noticed or time.monotonic() - self._last >= self.seconds

    def save(self, state: TrainingState) -> None:
        """Replaces the file, whole or not at all; if notice was given, the process is left then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"step": state.step, "losses": list(state.losses)})
        partial = self.folder / "partial.safetensors"
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        save_file(plain, partial, metadata={"state": header})
        partial.replace(self._file)
        self._last = time.monotonic()
        if self.notice is not None:
            self.notice.answer()

    def load(self) -> TrainingState | None:
        """The last checkpoint; None where there is none, or a damaged one, which is named and removed."""
        if not self._file.exists():
            return None
        try:
            with safe_open(str(self._file), framework="pt") as archive:
                header: dict[str, Any] = json.loads((archive.metadata() or {})["state"])
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
            return TrainingState(header["step"], tensors, tuple(header["losses"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            _log.warning("checkpoint %s is damaged (%s); training starts again", self._file, error)
            shutil.rmtree(self.folder)
            return None

    @property
    def _file(self) -> Path:
        return self.folder / "training.safetensors"


@dataclass(frozen=True, eq=False)
class Resumable:
    """All that changes while a member trains.

    Attributes:
        learner: the network and what trains with it.
        optimizer: of its parameters.
        generator: source of orders and views.
        hooks: of the training.
        progress: further tensors by name, changed in place.
    """

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    hooks: Sequence[TrainingHook]
    progress: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Their state by name."""
        found = {f"learner/{name}": tensor for name, tensor in self.learner.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
        for index, hook in enumerate(self.hooks):
            found |= {f"hooks/{index}/{name}": tensor for name, tensor in hook.state().items()}
        found |= {f"progress/{name}": tensor for name, tensor in self.progress.items()}
        return {**found, "generator": self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what ``tensors`` gave, in place."""
        for index, hook in enumerate(self.hooks):
            hook.restore(_below(f"hooks/{index}/", tensors))
        self.learner.load_state_dict(_below("learner/", tensors))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            for name, saved in _below(f"optimizer/{index}/", tensors).items():
                # In the parameter's memory format: the fused step goes over memory, not over indices.
                alike = parameter if saved.shape == parameter.shape else saved
                moment = torch.empty_like(alike, device=parameter.device)
                self.optimizer.state[parameter][name] = moment.copy_(saved).detach()
        for name, tensor in self.progress.items():
            tensor.copy_(tensors[f"progress/{name}"])
        self.generator.set_state(tensors["generator"])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
