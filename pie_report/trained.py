"""Dense members that are trained here, each once, through the store."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from population.preemption import notices_held
from population.spec import MemberSpec, RemainingSpec, TrainingSpec, weights_key
from population.store import Store
from ssl_models.backbones import Classifier, compared_layers
from ssl_models.checkpoint import Checkpoints
from ssl_models.datasets import ImageData
from ssl_models.hooks import TrainingHook
from ssl_models.labels import labelled_images
from ssl_models.objectives import OBJECTIVES
from ssl_models.probe import fit_probe
from ssl_models.recorder import CorrectnessRecorder
from ssl_models.several_devices import train_on_devices
from ssl_models.shares import drawn_share
from ssl_models.surgery import Surgery
from ssl_models.training import DivergedError, total_steps, train
from ssl_models.zoo import build_model

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: What a member whose training diverged has in the store, in place of weights.
_DIVERGED = "diverged.json"
#: Beside the weights of a member whose training was recorded.
_RECORD = "record.npz"


def note_divergence(folder: Path, error: DivergedError, *specs: "DataclassInstance") -> None:
    """Writes what a member whose training diverged has in place of weights."""
    outcome = {"spec": _plain(specs), "reason": str(error)}
    (folder / _DIVERGED).write_text(json.dumps(outcome, indent=1))


def raise_divergence(entry: Path) -> None:
    """Raises DivergedError if the training of a stored member diverged."""
    if (entry / _DIVERGED).exists():
        raise DivergedError(json.loads((entry / _DIVERGED).read_text())["reason"])


def save_trained(folder: Path, network: Classifier, losses: list[float], *specs: "DataclassInstance") -> None:
    """Writes ``model.safetensors``, and in ``training.json`` the losses of the epochs."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "training.json").write_text(json.dumps({"spec": _plain(specs), "loss": losses}, indent=1))


def _plain(specs: "tuple[DataclassInstance, ...]") -> dict[str, Any]:
    return {name: value for spec in specs for name, value in asdict(spec).items()}


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

    def learnt_from(self, index: int) -> NDArray[np.int64] | None:
        """Indices of the training images that a member learns from, ascending; None for all."""
        share = self.first.training.train_share
        if share == 1:
            return None
        return drawn_share(len(self.data.train.samples), share, seed=self.seeds[index])

    @cached_property
    def labelled(self) -> NDArray[np.int64] | None:
        """Indices of the training images whose labels may be looked at, ascending; None: all.

        Raises:
            InputError: as ``labelled_images``.
        """
        known = self.first.labels
        if known is None or known.fraction == 1:
            return None
        return labelled_images(self.data.train.samples.label, known.fraction, seed=known.seed)

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
        network, entry = self.untrained(index), self._entry(index)
        network.load_state_dict(load_file(entry / "model.safetensors"))
        return network

    def recorded(self, index: int) -> NDArray[np.bool_]:
        """Whether the classifier had each of the images that a member learnt from right after each epoch.

        Returns:
            Shape (E, n), the images in the order of ``learnt_from``.

        Raises:
            DivergedError: as ``network``.
        """
        with np.load(self._entry(index) / _RECORD, allow_pickle=False) as archive:
            correct: NDArray[np.bool_] = archive["correct"]
        return correct

    def _entry(self, index: int) -> Path:
        entry = self.store.once(
            "members", weights_key(self.spec(index)), lambda folder: self._make(index, folder)
        )
        raise_divergence(entry)
        return entry

    def _make(self, index: int, folder: Path) -> None:
        spec, network = self.spec(index), self.untrained(index)
        recorders: list[CorrectnessRecorder] = []
        if spec.training.forgetting:
            images, labels = (torch.from_numpy(part).to(spec.device) for part in self._seen(index))
            recorders.append(CorrectnessRecorder(network, spec.model.objective, images, labels))
        try:
            network, losses = self._trained(network, index, recorders)
        except DivergedError as error:
            note_divergence(folder, error, spec)
            return
        for recorder in recorders:
            np.savez(folder / _RECORD, correct=recorder.correct)
        save_trained(folder, network, losses, spec)

    def fit(
        self,
        network: Classifier,
        index: int,
        unfinished: Path,
        *,
        epochs: int | None = None,
        hooks: Sequence[TrainingHook] = (),
        surgery: Surgery | None = None,
    ) -> list[float]:
        """Trains a network as member ``index`` is trained, in place; then the probe, if it has one.

        Args:
            network: with the weights to begin from.
            index: says the seed.
            unfinished: folder of what a training that was stopped goes on from.
            epochs: other than the members'.
            hooks: of the training.
            surgery: on the way.

        Returns:
            Mean loss of each epoch.

        Raises:
            DivergedError: if the training diverges.
        """
        spec = self.spec(index)
        losses = self._train(
            network,
            index,
            spec.model.objective,
            replace(spec.training, epochs=epochs or spec.training.epochs),
            unfinished=unfinished,
            hooks=hooks,
            surgery=surgery,
        )
        if not self.trains_head:
            images, labels = self._seen(index)
            fit_probe(network, torch.from_numpy(images).to(spec.device), labels)
        return losses

    @property
    def trains_head(self) -> bool:
        """Whether the objective trains the classifier, so that no probe is fitted."""
        return OBJECTIVES[self.first.model.objective].trains_head

    @property
    def steps(self) -> int:
        """Optimizer steps of a member's training."""
        return total_steps(self.first.training, len(self._seen(0)[1]))

    def siblings(self) -> Self:
        """As many members with the seeds that follow, however many are left out here."""
        return replace(self, first=replace(self.first, seed=self.first.seed + self.k), excluded=())

    def _trained(
        self, untrained: Classifier, index: int, hooks: Sequence[TrainingHook]
    ) -> tuple[Classifier, list[float]]:
        """A member's network, and the loss of each epoch of the training that was for this member alone."""
        spec = self.spec(index)
        known, objective = spec.labels, spec.model.objective
        trains_head = OBJECTIVES[objective].trains_head
        network, losses = untrained, list[float]()
        if known is None or trains_head:
            losses = self._train(network, index, objective, spec.training, hooks)
        else:
            network = self._pretrained(index)
        if known is not None and known.finetuning is not None:
            losses = self._train(network, index, "supervised", known.finetuning)
        elif not trains_head:
            images, labels = self._seen(index)
            fit_probe(network, torch.from_numpy(images).to(spec.device), labels)
        return network, losses

    def _pretrained(self, index: int) -> Classifier:
        """The stored member of the same seed that no labels were kept from, with its untrained classifier."""
        network = replace(self, first=replace(self.first, labels=None)).network(index)
        network.head.load_state_dict(self.untrained(index).head.state_dict())
        return network

    def _train(
        self,
        network: Classifier,
        index: int,
        objective: str,
        training: TrainingSpec,
        hooks: Sequence[TrainingHook] = (),
        *,
        unfinished: Path | None = None,
        surgery: Surgery | None = None,
    ) -> list[float]:
        spec = self.spec(index)
        images, labels = (torch.from_numpy(part).to(spec.device) for part in self._seen(index))
        folder = unfinished or self.store.unfinished("members", weights_key(spec))
        if spec.devices == 1:
            run = partial(train, surgery=surgery)
        elif surgery is None:
            run = partial(train_on_devices, devices=spec.devices)
        else:
            raise ValueError("networks lose channels midway on one device alone")
        with notices_held() as notice:
            return run(
                network,
                objective,
                images,
                labels,
                spec=training,
                seed=spec.seed,
                hooks=hooks,
                checkpoints=Checkpoints(folder, notice=notice),
            )

    def _seen(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Training images of a member whose labels may be looked at, and these labels."""
        images, labels = self.data.train.images, self.data.train.samples.label
        share = self.learnt_from(index)
        rows = self.labelled if share is None else share
        return (images, labels) if rows is None else (images[rows], labels[rows])

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
                **({"devices": self.first.devices} if self.first.devices > 1 else {}),
                **{n: v for n, v in asdict(training).items() if n != "augmentation"},
                **asdict(training.augmentation),
            },
            "labels": self._describe_labels(),
        }

    def _describe_labels(self) -> dict[str, Any] | None:
        known, seen = self.first.labels, self.labelled
        if known is None:
            return None
        training = known.finetuning
        return {
            "fraction": known.fraction,
            "images": len(self.data.train.samples) if seen is None else len(seen),
            "seed": known.seed,
            "finetuning": None
            if training is None
            else {n: getattr(training, n) for n in ("epochs", "batch_size", "learning_rate", "weight_decay")},
        }
