"""Dense members that are trained here, each once, through the store."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from population.spec import MemberSpec, key
from population.store import Store
from ssl_models.backbones import Classifier, compared_layers
from ssl_models.datasets import ImageData
from ssl_models.probe import fit_probe
from ssl_models.zoo import build_model


@dataclass(frozen=True, eq=False)
class TrainedMembers:
    """K members that differ only in seed; the ``DenseMembers`` of most populations.

    Attributes:
        common: spec of the member with the first seed.
        k: number of members.
        data: images and labels.
        store: where trained weights are kept.
    """

    common: MemberSpec
    k: int
    data: ImageData
    store: Store

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
        return [self.common.seed + i for i in range(self.k)]

    def spec(self, index: int) -> MemberSpec:
        """Spec of member ``index``."""
        return replace(self.common, seed=self.seeds[index])

    @cached_property
    def _channel_statistics(self) -> tuple[list[float], list[float]]:
        return self.data.channel_statistics()

    def untrained(self, index: int) -> Classifier:
        """The network of a member before training."""
        model, (mean, std) = self.common.model, self._channel_statistics
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
        return network.to(self.common.device).to(memory_format=self.memory_format)

    def network(self, index: int) -> Classifier:
        """The trained member, from the store or trained now."""
        network = self.untrained(index)
        entry = self.store.once("members", key(self.spec(index)), lambda folder: self._train(index, folder))
        network.load_state_dict(load_file(entry / "model.safetensors"))
        return network

    def _train(self, index: int, folder: Path) -> None:
        from ssl_models.objectives import OBJECTIVES
        from ssl_models.training import train

        spec, network, split = self.spec(index), self.untrained(index), self.data.train
        images = torch.from_numpy(split.images).to(spec.device)
        labels = torch.from_numpy(split.samples.label).to(spec.device)
        losses = train(network, spec.model.objective, images, labels, spec=spec.training, seed=spec.seed)
        if not OBJECTIVES[spec.model.objective].trains_head:
            fit_probe(network, images, split.samples.label)
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "training.json").write_text(json.dumps({"spec": asdict(spec), "loss": losses}, indent=1))

    def layers(self, example: Tensor) -> dict[str, str]:
        """The layers of the encoder that its architecture lists."""
        del example  # the list is known without a run
        return {name: f"encoder.{name}" for name in compared_layers(self.common.model.architecture)}

    def describe(self) -> dict[str, Any]:
        """What the members are and how they were trained."""
        model, training = self.common.model, self.common.training
        return {
            "model": f"{model.objective}_{model.architecture}",
            "seeds": self.seeds,
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
