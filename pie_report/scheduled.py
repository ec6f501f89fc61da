"""Members that are made smaller while they train, each once, through the store; and what trains on.

The former have seeds of their own, so that they share nothing with the dense members but the spec.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compressors.apply import apply_plan
from compressors.contract import CompressionPlan, model_digest
from compressors.cost import measure_cost
from compressors.gradual import window_of
from compressors.magnitude import magnitude_masks
from pie_report.methods import METHODS
from pie_report.trained import TrainedMembers, note_divergence, raise_divergence, save_trained
from population.errors import InputError
from population.schedule import Schedule
from population.spec import CompressionSpec, key
from ssl_models.backbones import Classifier
from ssl_models.predict import batches, predict
from ssl_models.pruning import PruningHook
from ssl_models.surgery import Surgery, fit_embedding
from ssl_models.training import DivergedError

_KIND = "scheduled"


@dataclass(frozen=True)
class Steps:
    """When a schedule changes networks, in optimizer steps.

    Attributes:
        first: of the first change.
        last: of the last change.
        every: between changes; None where there is one.
        total: of the training.
    """

    first: int
    last: int
    every: int | None
    total: int


def steps_of(schedule: Schedule, *, total: int) -> Steps:
    """Settles a schedule for a training of ``total`` steps.

    Raises:
        InputError: if its window does not fit in, or there is no middle.
    """
    if schedule.when == "midway" and total < 2:
        raise InputError("--schedule midway needs a training of at least 2 steps, not 1")
    if schedule.when == "gradual":
        window = window_of(*schedule.window, schedule.every, total=total)
        return Steps(window.first, window.last, window.every, total)
    step = {"start": 0, "midway": total // 2, "end": total}[schedule.when]
    return Steps(step, step, None, total)


def compressor_options(condition: CompressionSpec) -> dict[str, str | bool]:
    """Arguments of a method beside those that all have."""
    return (
        {"scope": condition.scope, "classifier": condition.classifier} if condition.method == "prune" else {}
    )


@dataclass(frozen=True, eq=False)
class ScheduledMembers:
    """Networks that train and are compressed on the way.

    Attributes:
        source: as which they are trained, with the seeds that they have.
        condition: the compression, of an independent design.
    """

    source: TrainedMembers
    condition: CompressionSpec

    @property
    def schedule(self) -> Schedule:
        """When they are compressed."""
        return cast("Schedule", self.condition.schedule)

    @property
    def steps(self) -> Steps:
        """When, in steps."""
        return steps_of(self.schedule, total=self.source.steps)

    def key(self, index: int) -> str:
        """Of a member in the store."""
        return key(self.source.spec(index), self.condition)

    def is_finished(self, index: int) -> bool:
        """Whether a member is stored, or that its training diverged."""
        return self.source.store.has(_KIND, self.key(index))

    def diverged(self, index: int) -> bool:
        """Whether a member's training diverged; it is trained if it is not there."""
        try:
            self.entry(index)
        except DivergedError:
            return True
        return False

    def entry(self, index: int) -> Path:
        """Folder of a member, trained now if it is not there: model.safetensors, plan, predictions, cost.

        Raises:
            DivergedError: if its training diverges, or did so before.
        """
        entry = self.source.store.once(_KIND, self.key(index), lambda folder: self._produce(index, folder))
        raise_divergence(entry)
        return entry

    def network(self, index: int) -> Classifier:
        """A member as it ended."""
        entry = self.entry(index)
        plan = CompressionPlan.load(entry / "plan.safetensors")
        network = cast("Classifier", apply_plan(self.source.untrained(index), plan, self._example))
        fit_embedding(network)
        network.load_state_dict(load_file(entry / "model.safetensors"))
        return network.to(memory_format=self.source.memory_format)

    def curve(self, index: int) -> list[tuple[int, float]]:
        """Steps and the share of the weights that were zero from there on; empty where none is pruned."""
        rows: list[list[float]] = json.loads((self.entry(index) / "sparsity.json").read_text())
        return [(int(step), share) for step, share in rows]

    @property
    def _example(self) -> Tensor:
        images = torch.from_numpy(self.source.data.test.images[:1])
        return next(batches(images.to(self.source.first.device)))

    def _produce(self, index: int, folder: Path) -> None:
        spec, untrained = self.source.spec(index), self.source.untrained(index)
        try:
            network, plan, losses, curve = self._train(index)
        except DivergedError as error:
            note_divergence(folder, error, spec, self.condition)
            return
        save_trained(folder, network, losses, spec, self.condition)
        plan.save(folder / "plan.safetensors")
        (folder / "sparsity.json").write_text(json.dumps(curve))
        split = self.source.data.test
        images = torch.from_numpy(split.images).to(spec.device)
        predict(network, images, split.samples).save(folder / "predictions.npz")
        costs = {
            "before": asdict(measure_cost(untrained, self._example, {})),
            "after": asdict(measure_cost(network, self._example, plan.masks)),
            "change": {
                "requested": self.condition.amount,
                "achieved": achieved(plan),
                "calibration_images": 0,
            },
        }
        (folder / "cost.json").write_text(json.dumps(costs, indent=1))

    def _train(self, index: int) -> tuple[Classifier, CompressionPlan, list[float], list[tuple[int, float]]]:
        untrained = self.source.untrained(index)
        unfinished = self.source.store.unfinished(_KIND, self.key(index))
        name = f"{self.condition.method}-{self.schedule.when}"
        plan = CompressionPlan(name, model_digest(untrained))
        if self.condition.method == "prune":
            network = self.source.untrained(index)
            hook = PruningHook(
                network,
                sparsities=self._sparsities(),
                scope=self.condition.scope,
                classifier=self.condition.classifier and self.source.trains_head,
            )
            losses = self.source.fit(network, index, unfinished, hooks=[hook])
            masks = dict(hook.masks)
            if self.condition.classifier and not self.source.trains_head:
                masks |= prune_head(network.head, self.condition.amount, "head")
            curve = [*hook.curve, (self.source.steps, hook.sparsity)]
            return network, replace(plan, masks=masks), losses, curve
        if self.schedule.when == "start":
            found = self._decide(index, untrained, self._example)
            network = cast("Classifier", apply_plan(untrained, found, self._example))
            fit_embedding(network)
            losses = self.source.fit(network, index, unfinished)
            return network, replace(plan, clusters=found.clusters), losses, []
        network = self.source.untrained(index)
        surgery = Surgery(
            self.steps.first, lambda model, example: self._decide(index, model, example), self._example
        )
        losses = self.source.fit(network, index, unfinished, surgery=surgery)
        clusters = {group: tensor.numpy() for group, tensor in surgery.clusters.items()}
        return network, replace(plan, clusters=clusters), losses, []

    def _decide(self, index: int, network: nn.Module, example: Tensor) -> CompressionPlan:
        seed, amount = self.source.seeds[index], self.condition.amount
        compress = METHODS[self.condition.method]
        return compress(network, example, amount=amount, seed=seed, repair="none", calibration=None).plan

    def _sparsities(self) -> Mapping[int, float]:
        if self.schedule.when != "gradual":
            return {self.steps.first: self.condition.amount}
        window = window_of(*self.schedule.window, self.schedule.every, total=self.source.steps)
        return window.sparsities(self.condition.amount)


def achieved(plan: CompressionPlan) -> float:
    """Share of the weights that are zero, or of the channels that are gone."""
    if plan.masks:
        zeros = sum(int((~mask).sum()) for mask in plan.masks.values())
        return zeros / sum(mask.numel() for mask in plan.masks.values())
    before = sum(len(clusters) for clusters in plan.clusters.values())
    after = sum(len(set(clusters[clusters >= 0].tolist())) for clusters in plan.clusters.values())
    return 1 - after / before if before else 0.0


def prune_head(head: nn.Linear, amount: float, name: str) -> dict[str, Tensor]:
    """Sets the smallest weights of a classifier to zero, in place; returns the mask, by its full name."""
    weight = head.weight.detach()
    masks = magnitude_masks({f"{name}.weight": weight.abs()}, amount, scope="layer")
    weight.masked_fill_(~masks[f"{name}.weight"], 0)
    return masks


def train_on(
    source: TrainedMembers,
    index: int,
    condition: CompressionSpec,
    network: Classifier,
    masks: Mapping[str, Tensor],
    unfinished: Path,
) -> dict[str, Tensor]:
    """Trains a compressed member on, in place, with the objective that it was trained for.

    The learning rate rises and falls again as in the training, over ``finetune_epochs`` (learning-rate
    rewinding: Renda et al. 2020, arXiv 2003.02389). Projections and target networks of contrastive
    objectives are not kept with a member, so they begin anew; the probe is fitted again.

    Args:
        source: the members.
        index: of the member.
        condition: says for how many epochs.
        network: after compression.
        masks: of weights that stay zero.
        unfinished: folder of what it goes on from.

    Returns:
        The masks, and that of a probe that was pruned once it was fitted.
    """
    fit_embedding(network)
    hooks = [PruningHook(network, sparsities={}, masks=masks)] if masks else []
    epochs = cast("Schedule", condition.schedule).finetune_epochs
    source.fit(network, index, unfinished, epochs=epochs, hooks=hooks)
    pruned = condition.classifier and not source.trains_head
    return {**masks, **(prune_head(network.head, condition.amount, "head") if pruned else {})}
