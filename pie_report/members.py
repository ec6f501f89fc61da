"""Members of a population: compressed and asked for predictions, each once, through the store."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from compressors.apply import apply_plan
from compressors.contract import CompressionPlan
from compressors.cost import measure_cost
from pie_report.knn_probe import NEIGHBOURS, TEMPERATURE, knn_answers
from pie_report.methods import METHODS
from pie_report.scheduled import ScheduledMembers, achieved, compressor_options, prune_head, train_on
from pie_report.trained import TrainedMembers
from population.errors import InputError
from population.predictions import Predictions
from population.spec import CompressionSpec, LoadedSpec, MemberSpec, key
from population.store import Store
from ssl_models.backbones import Classifier
from ssl_models.datasets import ImageData
from ssl_models.imported import ImportedNetwork
from ssl_models.predict import batches, predict
from ssl_models.probe import fit_probe

#: Most training images that a BatchNorm re-estimation looks at: the first of those that the member learnt
#: from, without augmentation.
CALIBRATION_IMAGES = 5000

#: From images in [0, 1] to logits.
Network = Classifier | ImportedNetwork


class DenseMembers(Protocol):
    """Where the dense members of a population come from. It can be pickled."""

    @property
    def common(self) -> MemberSpec | LoadedSpec:
        """Identifies all members together, in keys."""
        ...

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of the networks' weights."""
        ...

    @property
    def has_head(self) -> bool:
        """Whether the networks' last linear layer is known, so that probes can be fitted."""
        ...

    @property
    def labelled(self) -> NDArray[np.int64] | None:
        """Indices of the training images whose labels may be looked at; None: all."""
        ...

    @property
    def seeds(self) -> list[int]:
        """Seed of each member; there are as many as members."""
        ...

    def spec(self, index: int) -> MemberSpec | LoadedSpec:
        """Identifies one member, in keys."""
        ...

    def learnt_from(self, index: int) -> NDArray[np.int64] | None:
        """Indices of the training images that a member learnt from, ascending; None for all."""
        ...

    def network(self, index: int) -> Network:
        """A dense member, in eval mode on its device."""
        ...

    def untrained(self, index: int) -> Network:
        """The same network with random weights that depend on the member's seed."""
        ...

    def layers(self, example: Tensor) -> dict[str, str]:
        """Layers whose outputs are compared, in forward order: name to show, name of the module."""
        ...

    def describe(self) -> dict[str, Any]:
        """Entries model, seeds, excluded_seeds, training and labels of section ``spec``."""
        ...


@dataclass(frozen=True, eq=False)
class Population:
    """K networks of one kind on one data set.

    Attributes:
        source: where the dense members come from.
        data: images and labels.
        store: where finished work is kept.
    """

    source: DenseMembers
    data: ImageData
    store: Store

    @property
    def k(self) -> int:
        """Number of members."""
        return len(self.seeds)

    @property
    def member(self) -> MemberSpec | LoadedSpec:
        """Identifies all members together, in keys; of trained ones, the spec of the first."""
        return self.source.common

    @property
    def seeds(self) -> list[int]:
        """Seed of each member."""
        return self.source.seeds

    def spec(self, index: int) -> MemberSpec | LoadedSpec:
        """Spec of member ``index``."""
        return self.source.spec(index)

    @cached_property
    def train_images(self) -> Tensor:
        """Training images on the device, uint8, shape (N, C, H, W)."""
        return torch.from_numpy(self.data.train.images).to(self.member.device)

    def learnt_images(self, index: int) -> Tensor:
        """Training images that a member learnt from, as ``train_images``."""
        return self._images_of(self.source.learnt_from(index))[0]

    def labelled_images(self, index: int) -> tuple[Tensor, NDArray[np.int64]]:
        """Training images whose labels a member may look at, on the device, and these labels."""
        rows = self.source.learnt_from(index)
        return self._images_of(self.source.labelled if rows is None else rows)

    def _images_of(self, rows: NDArray[np.int64] | None) -> tuple[Tensor, NDArray[np.int64]]:
        labels = self.data.train.samples.label
        if rows is None:
            return self.train_images, labels
        return self.train_images[torch.from_numpy(rows).to(self.member.device)], labels[rows]

    @cached_property
    def test_images(self) -> Tensor:
        """Images that members are compared on, on the device, uint8, shape (N, C, H, W)."""
        return torch.from_numpy(self.data.test.images).to(self.member.device)

    @property
    def example(self) -> Tensor:
        """One image as the networks take it."""
        return next(batches(self.test_images[:1]))

    @contextmanager
    def fixed_threads(self) -> Iterator[None]:
        """Makes torch and numpy use the number of threads that the members' spec says."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.member.threads)
        try:
            with threadpool_limits(limits=self.member.threads):
                yield
        finally:
            torch.set_num_threads(before)

    def untrained(self, index: int) -> Network:
        """A member's network with random weights."""
        return self.source.untrained(index)

    def dense(self, index: int) -> Network:
        """A member before compression."""
        return self.source.network(index)

    def dense_predictions(self, index: int) -> Predictions:
        """What a dense member says about the images that are compared."""
        entry = self.store.once(
            "predictions",
            key(self.spec(index)),
            lambda folder: predict(self.dense(index), self.test_images, self.data.test.samples).save(
                folder / "predictions.npz"
            ),
        )
        return Predictions.load(entry / "predictions.npz")

    def compressed(self, index: int, condition: CompressionSpec) -> Network:
        """A member after compression: rebuilt from its plan, or as it was trained; its probe is linear."""
        if condition.design == "independent":
            return self.scheduled(condition).network(index)
        plan = CompressionPlan.load(self._compressed_entry(index, condition) / "plan.safetensors")
        return self._rebuild(self.dense(index), plan)

    def compressed_predictions(self, index: int, condition: CompressionSpec) -> Predictions:
        """What a compressed member says about the same images."""
        return Predictions.load(self._compressed_entry(index, condition) / "predictions.npz")

    def costs(self, index: int, condition: CompressionSpec) -> dict[str, dict[str, int | float]]:
        """Costs of a member ``before`` and ``after`` compression, and what the ``change`` was."""
        text = (self._compressed_entry(index, condition) / "cost.json").read_text()
        costs: dict[str, dict[str, int | float]] = json.loads(text)
        return costs

    def _compressed_key(self, index: int, condition: CompressionSpec) -> str:
        voting = (NEIGHBOURS, TEMPERATURE) if condition.probe == "knn" else ()
        return key(self.spec(index), condition, CALIBRATION_IMAGES, *voting)

    def _compressed_entry(self, index: int, condition: CompressionSpec) -> Path:
        if condition.design == "independent":
            return self.scheduled(condition).entry(index)
        return self.store.once(
            "compressed",
            self._compressed_key(index, condition),
            lambda folder: (self._compress if condition.probe == "frozen" else self._probe)(
                index, condition, folder
            ),
        )

    def scheduled(self, condition: CompressionSpec) -> ScheduledMembers:
        """The networks of a condition of independent design; there are as many as members were asked for."""
        return ScheduledMembers(self.trained.siblings(), condition)

    @property
    def trained(self) -> TrainedMembers:
        """The source; for what only members that are trained here can have."""
        return cast("TrainedMembers", self.source)

    def is_finished(self, index: int, conditions: Sequence[CompressionSpec]) -> bool:
        """Whether a member's predictions, dense and after each compression, are stored."""
        return self.store.has("predictions", key(self.spec(index))) and all(
            self.scheduled(c).is_finished(index)
            if c.design == "independent"
            else self.store.has("compressed", self._compressed_key(index, c))
            for c in conditions
        )

    def _compress(self, index: int, condition: CompressionSpec, folder: Path) -> None:
        dense, seed = self.dense(index), self.seeds[index]
        images = self.learnt_images(index)[:CALIBRATION_IMAGES]
        # Chunks of nearly equal size, so that no batch is too small to have statistics.
        chunks = images.chunk(-(-len(images) // 500))
        options = compressor_options(condition)
        if condition.classifier and condition.schedule is not None and not self.trained.trains_head:
            options["classifier"] = False  # the one that is fitted after more training is pruned then
        result = METHODS[condition.method](
            dense,
            self.example,
            amount=condition.amount,
            seed=seed,
            repair=condition.repair,
            calibration=[next(batches(chunk)) for chunk in chunks],
            **options,
        )
        plan, network = result.plan, self._rebuild(dense, result.plan)
        if condition.schedule is not None:
            plan = self._trained_on(index, condition, plan)
            network = self._rebuild(dense, plan)
        plan.save(folder / "plan.safetensors")
        predict(network, self.test_images, self.data.test.samples).save(folder / "predictions.npz")
        change = {
            "requested": result.cost.requested,
            "achieved": result.cost.achieved,
            "calibration_images": result.calibration_images,
        }
        costs = {"before": asdict(result.cost.before), "after": asdict(result.cost.after), "change": change}
        self._save_costs(costs, condition, network, plan, folder)

    def _save_costs(
        self,
        costs: dict[str, dict[str, Any]],
        condition: CompressionSpec,
        network: Network,
        plan: CompressionPlan,
        folder: Path,
    ) -> None:
        """Writes costs; a classifier may have been pruned once more after it was fitted."""
        if condition.classifier:
            after = asdict(measure_cost(network, self.example, plan.masks))
            costs = {**costs, "after": after, "change": {**costs["change"], "achieved": achieved(plan)}}
        (folder / "cost.json").write_text(json.dumps(costs, indent=1))

    def _probe(self, index: int, condition: CompressionSpec, folder: Path) -> None:
        """Another probe on the encoder that was compressed with the frozen one."""
        encoder = self._compressed_entry(index, replace(condition, probe="frozen"))
        plan = CompressionPlan.load(encoder / "plan.safetensors")
        network = self._rebuild(self.dense(index), plan)
        if condition.probe == "knn":
            found = knn_answers(
                network, *self.labelled_images(index), self.test_images, self.data.test.samples
            )
            found.predictions.save(folder / "predictions.npz")
            (folder / "votes.json").write_text(json.dumps({"without_features": found.without_features}))
            return
        plan = self._refitted(index, network, condition, plan)
        plan.save(folder / "plan.safetensors")
        predict(network, self.test_images, self.data.test.samples).save(folder / "predictions.npz")
        costs = json.loads((encoder / "cost.json").read_text())
        self._save_costs(costs, condition, network, plan, folder)

    def _refitted(
        self, index: int, network: Network, condition: CompressionSpec, plan: CompressionPlan
    ) -> CompressionPlan:
        """The plan of a network whose probe is fitted again, in place."""
        fit_probe(network, *self.labelled_images(index))
        name = next(n for n, module in network.named_modules() if module is network.head)
        masks = prune_head(network.head, condition.amount, name) if condition.classifier else {}
        head = {f"{name}.{n}": t.detach().clone() for n, t in network.head.named_parameters()}
        return replace(plan, masks={**plan.masks, **masks}, tensors={**plan.tensors, **head})

    def _trained_on(self, index: int, condition: CompressionSpec, plan: CompressionPlan) -> CompressionPlan:
        """The plan with all weights of the network after further training, whose probe is fitted to it."""
        network = cast("Classifier", self._rebuild(self.dense(index), plan))
        unfinished = self.store.unfinished("compressed", self._compressed_key(index, condition))
        masks = train_on(self.trained, index, condition, network, plan.masks, unfinished)
        return replace(
            plan, masks=masks, tensors={n: t.detach().clone() for n, t in network.state_dict().items()}
        )

    def without_features(self, condition: CompressionSpec) -> float | None:
        """Mean share of the test images whose features are all 0; None unless neighbours vote."""
        if condition.probe != "knn":
            return None
        entries = [self._compressed_entry(i, condition) for i in range(self.k)]
        counts = [json.loads((entry / "votes.json").read_text())["without_features"] for entry in entries]
        return float(np.mean(counts)) / len(self.data.test.samples)

    def _rebuild(self, dense: Network, plan: CompressionPlan) -> Network:
        network = cast("Network", apply_plan(dense, plan, self.example))
        return network.to(memory_format=self.source.memory_format)

    def dense_population(self) -> Predictions:
        """Predictions of all dense members."""
        return Predictions.stack([self.dense_predictions(i) for i in range(self.k)])

    def compressed_population(self, condition: CompressionSpec) -> Predictions:
        """Predictions of all members after compression, in the order of the dense ones.

        Raises:
            InputError: if they were trained on their own, and fewer than 2 of them did not diverge.
        """
        return Predictions.stack([self.compressed_predictions(i, condition) for i in self.ended(condition)])

    def ended(self, condition: CompressionSpec) -> list[int]:
        """Indices of a condition's networks: of those trained on their own, the ones that did not diverge.

        Raises:
            InputError: if these are fewer than 2.
        """
        if condition.design == "paired":
            return list(range(self.k))
        members = self.scheduled(condition)
        indices = [i for i in range(members.source.k) if not members.diverged(i)]
        if len(indices) < 2:
            raise InputError(
                f"{condition.title}: {members.source.k - len(indices)} of {members.source.k} networks"
                " diverged; a population needs at least 2 others"
            )
        return indices

    def mean_costs(self, condition: CompressionSpec) -> dict[str, dict[str, float]]:
        """Mean over members of every number in ``costs``."""
        costs = [self.costs(i, condition) for i in self.ended(condition)]
        return {
            part: {name: float(np.mean([c[part][name] for c in costs])) for name in costs[0][part]}
            for part in costs[0]
        }


def layers_of(population: Population) -> Mapping[str, str]:
    """Layers whose outputs are compared between models.

    Returns:
        Names to show, in forward order, with the names of the modules in every dense member.
    """
    return population.source.layers(population.example)
