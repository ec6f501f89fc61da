"""The ordered stages from a spec to a Report."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from analysis.recall import class_deltas, population_accuracy
from figures.gallery.exhibits import Exhibits
from pie.identify import PieTable, find_pies
from pie.side_data import SideData
from pie_report.assemble import ConditionResult, DenseResult, build_report
from pie_report.baselines import baseline_accuracies
from pie_report.checkpoints import open_checkpoints
from pie_report.dense_map import dense_map
from pie_report.explanations import explain
from pie_report.group_statistics import describe_groups, with_groups
from pie_report.label_use import check_label_use, use_labels
from pie_report.members import Population
from pie_report.network_scores import compute_scores, has_scores, score_table
from pie_report.probes import compare_probes, further_conditions
from pie_report.report import Report
from pie_report.scheduled import compressor_options, steps_of
from pie_report.statistics import condition_statistics, with_side_labels
from pie_report.trained import TrainedMembers
from population.attributes import groups_of
from population.errors import InputError
from population.executor import run_tasks
from population.job_arrays import Slurm
from population.predictions import Predictions
from population.slurm import TasksFailedError, run_on_slurm
from population.spec import CompressionSpec, MemberSpec, PopulationSpec, ReportSpec, key, weights_key
from population.store import Store
from ssl_models.datasets import check_data_name, display_name, load_data
from ssl_models.objectives import OBJECTIVES
from ssl_models.presets import preset
from ssl_models.several_devices import check_batch
from ssl_models.shares import check_shares
from ssl_models.training import DivergedError
from ssl_models.zoo import check_model_name, model_spec, split_name, stem_for

#: Of one member. A small network gains little from a second thread; a second member beside it gains
#: all, and results do not depend on the number of cores.
_THREADS = 1

_log = logging.getLogger(__name__)


class MembersFailedError(RuntimeError):
    """Some members could not be finished, for a reason that no user can mend."""


def open_members(
    spec: ReportSpec, *, store: Store, data_dir: Path | None, download: bool, devices: int = 1
) -> Population:
    """The population of a report: members to be trained, or a user's own.

    Args:
        spec: what to report.
        store: where finished work is kept.
        data_dir: where torchvision's data sets are.
        download: whether an absent data set may be fetched.
        devices: how many train a member together.

    Raises:
        InputError: as ``open_population`` and ``open_checkpoints``, or if several devices cannot do it.
    """
    if devices > 1:
        _check_devices(spec, devices)
    _check_probe(spec)
    if not spec.own.checkpoints:
        return open_population(
            spec.population, store=store, data_dir=data_dir, download=download, devices=devices
        )
    check_data_name(spec.population.data)
    device = _device(spec.population.device)
    named = spec.population
    data = load_data(
        named.data, data_dir=data_dir, download=download, attributes=named.attributes, split=named.judged
    )
    source = open_checkpoints(spec, data, device=device, threads=_THREADS)
    return Population(source, data.judged_on(named.judged), store)


def _check_devices(spec: ReportSpec, devices: int) -> None:
    if spec.own.checkpoints:
        raise InputError(f"--gpus {devices} is for networks that are trained here, not for --checkpoints")
    for condition in spec.conditions:
        if condition.method != "prune" and condition.schedule and condition.schedule.when == "midway":
            raise InputError(
                f"--gpus {devices}: networks that lose channels midway train on one device: --gpus 1"
            )


def _check_probe(spec: ReportSpec) -> None:
    """Raises InputError if some networks would have a new classifier, and others the one they trained."""
    if spec.own.checkpoints or spec.probe[0] != "refit":
        return
    check_model_name(spec.population.model)
    objective = split_name(spec.population.model)[0]
    if OBJECTIVES[objective].trains_head and any(c.design == "independent" for c in spec.conditions):
        raise InputError(
            f"--probe refit: {objective} networks that are compressed while they train keep the classifier"
            " that they trained; --probe frozen keeps that of the others as well"
        )


def open_population(
    spec: PopulationSpec,
    *,
    store: Store,
    data_dir: Path | None,
    download: bool,
    elsewhere: bool = False,
    devices: int = 1,
) -> Population:
    """Reads the data and settles what the preset and the machine decide.

    Args:
        spec: the population as named.
        store: where finished work is kept.
        data_dir: where torchvision's data sets are.
        download: whether an absent data set may be fetched.
        elsewhere: whether other machines do all work on the device, so that it need not be in this one.
        devices: how many train a member together.

    Raises:
        InputError: if a name is unknown, the data are not there, there is no such device, the objective
            trains no classifier that could forget, or a share of the training images lacks a class.
    """
    check_model_name(spec.model)
    check_data_name(spec.data)
    check_label_use(spec)
    objective = split_name(spec.model)[0]
    if spec.forgetting and not OBJECTIVES[objective].trains_head:
        able = ", ".join(name for name, other in OBJECTIVES.items() if other.trains_head)
        raise InputError(f"--forgetting: {objective} trains no classifier; objectives that do: {able}")
    device = spec.device if elsewhere else _device(spec.device)
    data = load_data(
        spec.data, data_dir=data_dir, download=download, attributes=spec.attributes, split=spec.judged
    )
    if spec.train_share < 1:
        seeds = range(spec.seed, spec.seed + spec.members)
        check_shares(data.train.samples, spec.train_share, seeds=seeds)
    chosen = preset(spec.data, objective)
    training = replace(chosen.training, train_share=float(spec.train_share), forgetting=spec.forgetting)
    if spec.epochs is not None:
        training = replace(training, epochs=spec.epochs)
    if spec.batch_size is not None:
        training = replace(training, batch_size=spec.batch_size)
    check_batch(training.batch_size, devices=devices)
    training, labels = use_labels(spec, training, chosen.finetuning, data.train.samples.label)
    model = model_spec(
        spec.model,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        width=spec.width or chosen.width,
        stem=spec.stem or stem_for(data.resolution),
    )
    member = MemberSpec(
        model, training, data.fingerprint(), spec.seed, device, _THREADS, labels, spec.judged, devices
    )
    return Population(TrainedMembers(member, spec.members, data, store), data.judged_on(spec.judged), store)


def _device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError(
            "--device cuda or --gpus: this machine has no usable GPU; allowed here: auto, cpu (a report on"
            " members that jobs train on GPUs needs one too)"
        )
    return "cuda" if available and name != "cpu" else "cpu"


def finish_members(
    population: Population,
    conditions: tuple[CompressionSpec, ...],
    progress: Progress,
    *,
    scores: bool,
    workers: int,
    slurm: Slurm | None = None,
    exclude_diverged: bool,
) -> Population:
    """Trains, compresses and asks every member whose predictions are not stored yet.

    Args:
        population: the members.
        conditions: compressions of each.
        scores: also compute what ``pie_report.network_scores`` has of the dense members.
        progress: shows how many members are done.
        workers: number of processes; members do not depend on it.
        slurm: each member is a job that asks for this, instead of a worker's.
        exclude_diverged: go on without members whose training diverges.

    Returns:
        The members that did not diverge.

    Raises:
        InputError: if a member diverges and is not to be left out, fewer than 2 remain, or jobs are ended.
        MembersFailedError: if jobs fail otherwise.
    """
    waiting = [
        i
        for i in range(population.k)
        if not population.is_finished(i, conditions) or (scores and not has_scores(population, i))
    ]
    task = progress.add_task("members", total=population.k, completed=population.k - len(waiting))
    shared = population, conditions, scores, exclude_diverged
    if slurm is None:
        done = run_tasks(_finish_member, shared, waiting, workers=workers)
    else:
        known = [i for i in waiting if _has_diverged(population, i)]
        for index in known:  # says so, or leaves it out, without a job
            _finish_member(shared, index)
        left = [i for i in waiting if i not in known]
        names = {i: key(population.spec(i), conditions, scores, exclude_diverged) for i in left}
        threads, folder = population.member.threads, population.store.jobs
        done = run_on_slurm(_finish_member, shared, names, slurm=slurm, threads=threads, folder=folder)
    try:
        for _ in done:
            progress.advance(task)
    except TasksFailedError as error:
        raise _failed(population, error) from error
    diverged = [population.seeds[i] for i in waiting if not population.is_finished(i, conditions)]
    return _without(population, diverged) if diverged else population


def _finish_member(shared: tuple[Population, tuple[CompressionSpec, ...], bool, bool], index: int) -> None:
    population, conditions, scores, exclude_diverged = shared
    lost = False
    with population.fixed_threads():
        try:
            population.dense_predictions(index)
        except DivergedError as error:
            if not exclude_diverged:
                raise InputError(_diverged(population, index, error)) from error
            conditions = tuple(c for c in conditions if c.design == "independent")
            lost = True
        for condition in conditions:
            try:
                population.compressed_predictions(index, condition)
            except DivergedError as error:
                if not exclude_diverged:
                    raise InputError(_diverged(population, index, error, condition)) from error
                if condition.design == "paired":
                    return
        if scores and not lost:
            compute_scores(population, index)


def _diverged(
    population: Population, index: int, error: DivergedError, condition: CompressionSpec | None = None
) -> str:
    own = condition is not None and condition.design == "independent"
    seed = population.trained.siblings().seeds[index] if own else population.seeds[index]
    where = "" if condition is None else f" in {condition.title}"
    return (
        f"member {index} (seed {seed}) diverged{where}: {error}; --exclude-diverged leaves such members out"
    )


def _has_diverged(population: Population, index: int) -> bool:
    """Whether the store knows that a member's training diverges; nothing is trained."""
    try:
        if population.store.has("members", weights_key(population.spec(index))):
            population.dense(index)
    except DivergedError:
        return True
    return False


def _failed(population: Population, error: TasksFailedError) -> Exception:
    """Names the members that failed; the error is of the kind of the worst."""
    for index, failure in error.failures.items():
        named = f"member {index} (seed {population.seeds[index]})"
        reason = failure.reason if failure.reason.startswith(named) else f"{named} failed: {failure.reason}"
        _log.warning("%s; log: %s", reason, failure.log)
    kind = InputError if all(f.mendable for f in error.failures.values()) else MembersFailedError
    return kind(f"{len(error.failures)} of {population.k} members failed; the same command runs these again")


def _without(population: Population, seeds: list[int]) -> Population:
    """The members that did not diverge."""
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    which = f"{len(seeds)} of {population.k} members diverged ({named})"
    if population.k - len(seeds) < 2:
        raise InputError(f"{which}; a population needs at least 2 others")
    _log.warning("%s and are left out", which)
    trained = cast("TrainedMembers", population.source)  # no others diverge
    return replace(population, source=trained.without(seeds))


def describe(
    spec: ReportSpec, population: Population, command_line: str, *, side_labels: str | None = None
) -> dict[str, dict[str, Any]]:
    """Sections ``spec`` and ``data`` of report.json, known before any work is done.

    Schedules are settled here too, so that one that does not fit the training is told before.

    Args:
        spec: what to report.
        population: from ``open_members``.
        command_line: the command that gives this report, without group columns and side data.
        side_labels: digest of the file of side data.

    Raises:
        InputError: if a window of gradual pruning does not lie in the training.
    """
    named, member, data = spec.population, population.member, population.data
    for condition in spec.conditions:
        _schedule_section(population, condition)
    from_file = named.attributes.groups is not None
    groups = describe_groups(groups_of(data.test.samples), from_file=from_file)
    return {
        "spec": {
            "command": "report",
            "command_line": with_side_labels(with_groups(command_line, groups), side_labels),
            **population.source.describe(),
            "data": display_name(named.data),
            "judged": member.judged,
            "members": population.k,
            "seed": named.seed,
            "probe": list(spec.probe),
            "repair": list(spec.repair),
            "design": spec.design,
            "side_labels": side_labels,
            "groups": groups,
            "device": member.device,
            "threads": member.threads,
        },
        "data": {
            "n_train": len(data.train.samples),
            "n_test": len(data.test.samples),
            "class_names": list(data.test.samples.class_names),
            "in_channels": data.in_channels,
            "resolution": data.resolution,
            "fingerprint": member.data,
        },
    }


def run(
    spec: ReportSpec,
    population: Population,
    sections: dict[str, dict[str, Any]],
    progress: Progress,
    *,
    side: SideData | None = None,
    workers: int = 1,
    slurm: Slurm | None = None,
) -> Report:
    """Trains, compresses, compares and explains; every stage that is stored is skipped.

    Args:
        spec: the conditions to compare.
        population: from ``open_population``.
        sections: from ``describe``.
        progress: shows how far it is.
        side: what else is known of the compared images.
        workers: number of processes that train and compress members; results do not depend on it.
        slurm: members are jobs that ask for this.
    """
    population = finish_members(
        population,
        (*_identity(spec), *spec.conditions, *further_conditions(population, spec)),
        progress,
        scores=True,
        workers=workers,
        slurm=slurm,
        exclude_diverged=spec.population.exclude_diverged,
    )
    with population.fixed_threads():
        dense = population.dense_population()
        scores = score_table(population, dense)
        task = progress.add_task("comparing", total=len(spec.conditions))
        results = []
        for condition in spec.conditions:
            title = spec.title(condition)
            results.append(_compare(population, title, condition, dense, scores, side))
            progress.advance(task)
        return build_report(
            spec={**sections["spec"], **population.source.describe()},
            data=sections["data"],
            baselines=_baselines(population),
            dense=_dense_result(spec, population, dense),
            conditions=results,
            scores=scores,
            probes=compare_probes(population, spec, dense, results),
            exhibits=_exhibits(population, results),
            embeddings=dense_map(population, {r.condition: r.pies.samples for r in results}),
            with_models=True,
            groups=groups_of(population.data.test.samples),
        )


def _baselines(population: Population) -> dict[str, float | int] | None:
    """On images that the probes were not fitted on; None where there are none, or no last layer is known."""
    if population.member.judged == "train" or not population.source.has_head:
        return None
    return baseline_accuracies(population)


def _dense_result(spec: ReportSpec, population: Population, dense: Predictions) -> DenseResult:
    seed = population.member.seed
    reestimated = None
    for identity in _identity(spec):
        reestimated = population.compressed_population(identity)
    costs = population.mean_costs(spec.conditions[0])["before"]
    return DenseResult(
        predictions=dense,
        reestimated=reestimated,
        accuracy=population_accuracy(dense, seed=seed),
        accuracy_reestimated=None if reestimated is None else population_accuracy(reestimated, seed=seed),
        cost={name: round(value) for name, value in costs.items()},
    )


def _identity(spec: ReportSpec) -> tuple[CompressionSpec, ...]:
    """The condition that shows what re-estimation alone does to the dense members, where it is a repair."""
    return (CompressionSpec("identity", 0.0, "bn", "frozen"),) if "bn" in spec.repair else ()


def _schedule_section(population: Population, condition: CompressionSpec) -> dict[str, Any] | None:
    """Section ``schedule`` of a condition; None where networks are compressed after training, and no more."""
    if condition.schedule is None:
        return None
    steps = steps_of(condition.schedule, total=population.trained.steps)
    when = {"when": condition.schedule.when, "finetune_epochs": condition.schedule.finetune_epochs}
    return {**when, **asdict(steps)}


def _sparsity_table(population: Population, condition: CompressionSpec) -> pd.DataFrame | None:
    """How sparse the networks were when; the same for all of them, as it follows from the schedule."""
    if condition.design == "paired" or condition.method != "prune":
        return None
    members = population.scheduled(condition)
    rows = members.curve(population.ended(condition)[0])
    table = pd.DataFrame(rows, columns=["step", "sparsity"])
    return table.assign(share=table["step"] / members.steps.total)


def _compare(
    population: Population,
    title: str,
    condition: CompressionSpec,
    dense: Predictions,
    scores: pd.DataFrame,
    side: SideData | None,
) -> ConditionResult:
    seed, design = population.member.seed, condition.design
    compressed = population.compressed_population(condition)
    pies = find_pies(dense, compressed, design=design, seed=seed)
    # Layers and maps are compared network by network, with the one that it was made from.
    explanation = (
        explain(population, condition, pies.samples, dense.modal_label) if design == "paired" else None
    )
    costs = population.mean_costs(condition)
    return ConditionResult(
        condition=title,
        method=condition.method,
        amount=condition.amount,
        repair=condition.repair,
        pruning=compressor_options(condition) or None,
        schedule=_schedule_section(population, condition),
        k=compressed.k,
        calibration_images=round(costs["change"]["calibration_images"]),
        cost={
            **{name: round(value) for name, value in costs["after"].items()},
            **{f"{name}_kept": costs["after"][name] / costs["before"][name] for name in costs["after"]},
            "requested": costs["change"]["requested"],
            "achieved": costs["change"]["achieved"],
        },
        accuracy=population_accuracy(compressed, seed=seed),
        pies=pies,
        classes=class_deltas(dense, compressed, design=design, seed=seed),
        statistics=condition_statistics(
            dense,
            compressed,
            pies,
            design=design,
            scores=scores,
            side=side,
            seed=seed,
            groups=groups_of(population.data.test.samples),
        ),
        predictions=compressed,
        explanation=explanation,
        sparsity=_sparsity_table(population, condition),
    )


def _exhibits(population: Population, results: list[ConditionResult]) -> Exhibits:
    shown = np.logical_or.reduce([_is_pie(r.pies) for r in results])
    images = population.data.test.images[shown].transpose(0, 2, 3, 1)
    maps = {r.condition: r.explanation.maps for r in results if r.explanation is not None}
    ids = {title: part.pie_ids() for title, part in maps.items()}
    none = np.empty((0, *images.shape[1:3]), dtype=np.float32)
    return Exhibits(
        sample_id=population.data.test.samples.sample_id[shown],
        image=np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3))),
        map_condition=np.repeat(list(ids), [len(i) for i in ids.values()]),
        map_sample_id=np.concatenate([np.empty(0, dtype=np.str_), *ids.values()]),
        map_dense=np.concatenate([none, *(part.map_dense for part in maps.values())]),
        map_compressed=np.concatenate([none, *(part.map_compressed for part in maps.values())]),
    )


def _is_pie(pies: PieTable) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return pies.samples["pie"].to_numpy(dtype=bool)
