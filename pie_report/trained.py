"""Dense members that are trained here, each once, through the store."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from population.spec import MemberSpec, RemainingSpec, key
from population.store import Store
from ssl_models.backbones import Classifier, compared_layers
from ssl_models.checkpoint import Checkpoints
from ssl_models.datasets import ImageData
from ssl_models.objectives import OBJECTIVES
from ssl_models.probe import fit_probe
from ssl_models.training import DivergedError, train
from ssl_models.zoo import build_model

#: What a member whose training diverged has in the store, in place of weights.
_DIVERGED = "diverged.json"


@dataclass(frozen=True, eq=False)
class TrainedMembers:
    """K members that differ only in seed; the ``DenseMembers`` of most populations.

    Attributes:
        first: spec of the member with the first seed.
        k: number of members before any is left out.
        data: images and labels.
        store: where trained weights are kept.
        excluded: seeds of the members that are left out.
    """

    first: MemberSpec
    k: int
    data: ImageData
    store: Store
    excluded: tuple[int, ...] = ()

    @property
    def common(self) -> MemberSpec:
        """The first spec, and what is left out."""
        return RemainingSpec(**vars(self.first), excluded=self.excluded) if self.excluded else self.first

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, the faster one for the networks of the zoo."""
        return torch.channels_last

    @property
    def has_head(self) -> bool:
        """Every classifier of the zoo has a linear layer at its end."""
        return True

    @property
    def seeds(self) -> list[int]:
        """Seed of each member."""
        seeds = range(self.first.seed, self.first.seed + self.k)
        return [seed for seed in seeds if seed not in self.excluded]

    def without(self, seeds: list[int]) -> Self:
        """The others alone."""
        return replace(self, excluded=(*self.excluded, *seeds))

    def spec(self, index: int) -> MemberSpec:
        """Spec of member ``index``."""
        return replace(self.first, seed=self.seeds[index])

    @cached_property
    def _channel_statistics(self) -> tuple[list[float], list[float]]:
        return self.data.channel_statistics()

    def untrained(self, index: int) -> Classifier:
        """The network of a member before training."""
        model, (mean, std) = self.first.model, self._channel_statistics
        network = build_model(
            f"{model.objective}_{model.architecture}",
            num_classes=model.num_classes,
            in_channels=model.in_channels,
            width=model.width,
            seed=self.seeds[index],
            stem=model.stem,
            mean=mean,
            std=std,
        )
        return network.to(self.first.device).to(memory_format=self.memory_format)

    def network(self, index: int) -> Classifier:
        """The trained member, from the store or trained now.

        Raises:
            DivergedError: if its training diverges, or did so before.
        """
        network = self.untrained(index)
        name = key(self.spec(index))
        entry = self.store.once("members", name, lambda folder: self._train(index, folder))
        if (entry / _DIVERGED).exists():
            raise DivergedError(json.loads((entry / _DIVERGED).read_text())["reason"])
        network.load_state_dict(load_file(entry / "model.safetensors"))
        return network

    def _train(self, index: int, folder: Path) -> None:
        spec, network, split = self.spec(index), self.untrained(index), self.data.train
        images = torch.from_numpy(split.images).to(spec.device)
        labels = torch.from_numpy(split.samples.label).to(spec.device)
        checkpoints = Checkpoints(self.store.unfinished("members", key(spec)))
        try:
            losses = train(
                network,
                spec.model.objective,
                images,
                labels,
                spec=spec.training,
                seed=spec.seed,
                checkpoints=checkpoints,
            )
        except DivergedError as error:
            outcome = {"spec": asdict(spec), "reason": str(error)}
            (folder / _DIVERGED).write_text(json.dumps(outcome, indent=1))
            return
        if not OBJECTIVES[spec.model.objective].trains_head:
            fit_probe(network, images, split.samples.label)
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "training.json").write_text(json.dumps({"spec": asdict(spec), "loss": losses}, indent=1))

    def layers(self, example: Tensor) -> dict[str, str]:
        """The layers of the encoder that its architecture lists."""
        del example  # the list is known without a run
        return {name: f"encoder.{name}" for name in compared_layers(self.first.model.architecture)}

    def describe(self) -> dict[str, Any]:
        """What the members are and how they were trained."""
        model, training = self.first.model, self.first.training
        return {
            "model": f"{model.objective}_{model.architecture}",
            "seeds": self.seeds,
            "excluded_seeds": list(self.excluded),
            "training": {
                "objective": model.objective,
                "architecture": model.architecture,
                "width": model.width,
                "stem": model.stem,
                "resolution": self.data.resolution,
                **{n: v for n, v in asdict(training).items() if n != "augmentation"},
                **asdict(training.augmentation),
            },
        }
