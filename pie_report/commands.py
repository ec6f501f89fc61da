"""Commands: what each is told, and what it does. Heavy imports happen inside the one that needs them."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pie_report.execution import Execution
from population.errors import InputError
from population.spec import PopulationSpec, ReportSpec, key, weights_key

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from rich.progress import Progress

    from pie.side_data import SideData
    from population.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Messages:
    """What is printed.

    Attributes:
        json: print the report as JSON on standard output instead of the path of its page.
        quiet: no progress on standard error.
        debug: on an error show the traceback.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Places:
    """Where data and finished work are.

    Attributes:
        data_dir: where torchvision's data sets are.
        download: fetch an absent data set into --data-dir.
        store: where trained members and all other finished work are kept (default: the environment
            variable PIE_STORE, else the user's cache folder).
    """

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    download: bool = False
    store: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None

    def open_store(self) -> "Store":
        """The store that was named, or the default one."""
        from platformdirs import user_cache_path

        from population.store import Store

        named = self.store or os.environ.get("PIE_STORE")
        return Store(Path(named) if named else user_cache_path("pie-toolkit"))


@dataclass(frozen=True)
class Report:
    """Compress a population, find what it forgets, and write a report.

    Attributes:
        spec: what to report.
        places: where things are.
        preset: published settings to begin from, which further options change: hooker2019, corti2022,
            wang2025, each also with -small, for two cores. With --help, their source and what differs here.
        out: folder of the report (default: runs/MODEL-DATA-KEY).
        force: replace a report of another spec in --out.
        side_labels: CSV or npz of what else is known of the compared images, by sample_id: numbers are
            scores of difficulty, columns of yes and no are marks.
        execution: what trains and compresses members.
        messages: what is printed.
    """

    spec: ReportSpec
    places: Places = Places()
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    side_labels: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    execution: Execution = field(default_factory=Execution)
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    force: bool = False
    messages: Messages = Messages()


@dataclass(frozen=True)
class Train:
    """Train the members of a population into the store.

    Attributes:
        population: models and data.
        places: where things are.
        execution: what trains members.
        messages: what is printed.
    """

    population: PopulationSpec = field(default_factory=PopulationSpec)
    places: Places = Places()
    execution: Execution = field(default_factory=Execution)
    messages: Messages = Messages()


@dataclass(frozen=True)
class Groups:
    """Groups of the samples.

    Attributes:
        groups: CSV with a row per sample: a column sample_id (or file) and the group columns.
        group_columns: columns of groups to compare, each alone and all crossed.
    """

    groups: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    group_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.groups is None) != (not self.group_columns):
            raise InputError("--groups FILE and --group-columns go together: give both")

    def read(self, sample_id: "NDArray[np.str_]") -> "pd.DataFrame | None":
        """The groups of the samples, or None."""
        if self.groups is None:
            return None
        from population.attributes import check_groups, read_attributes

        table = read_attributes(self.groups, self.group_columns)
        rows = table.rows(sample_id)
        check_groups(rows)
        left_out = table.left_out(sample_id)
        if left_out:
            _log.warning("%s: %d rows of other samples left out", self.groups, left_out)
        return rows


@dataclass(frozen=True)
class Compare:
    """Compare two files of predictions, made in any framework.

    Attributes:
        dense: npz with sample_id (N,), predicted (K, N); optional label (N,), margin (K, N),
            probabilities (K, N, C), class_names (C,).
        compressed: the same for the compressed models; K may differ, the samples may not.
        design: paired (model i of one file became model i of the other) or independent.
        out: folder of the report.
        groups: whose samples they are.
        side_labels: CSV or npz of what else is known of the samples, by sample_id: numbers are scores of
            difficulty, columns of yes and no are marks.
        seed: of bootstrap and permutations.
        force: replace another comparison in --out.
        messages: what is printed.
    """

    dense: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DENSE.npz")]]
    compressed: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="COMPRESSED.npz")]]
    design: str
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    groups: Groups = Groups()
    side_labels: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    seed: int = 0
    force: bool = False
    messages: Messages = Messages()


@dataclass(frozen=True)
class Across:
    """Put reports on several populations of the same images side by side.

    Attributes:
        runs: folders of at least two reports.
        out: folder of the comparison.
        seed: of the permutation tests.
        messages: what is printed.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    seed: int = 0
    messages: Messages = Messages()


@dataclass(frozen=True)
class Gallery:
    """Build the gallery of a run again from its tables.

    Attributes:
        run: folder of a report.
        messages: what is printed.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    messages: Messages = Messages()


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a run again from its tables.

    Attributes:
        run: folder of a report.
        messages: what is printed.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    messages: Messages = Messages()


@dataclass(frozen=True)
class Stats:
    """Compute the statistics of a run again from its predictions.

    Attributes:
        run: folder of a report.
        groups: in place of those that the run has.
        side_labels: CSV or npz of what else is known of the samples, by sample_id: numbers are scores of
            difficulty, columns of yes and no are marks.
        messages: what is printed.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    groups: Groups = Groups()
    side_labels: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    messages: Messages = Messages()


@dataclass(frozen=True)
class Models:
    """List the models by name, with their sizes.

    Attributes:
        messages: what is printed.
    """

    messages: Messages = Messages()


@dataclass(frozen=True)
class Data:
    """List the data sets by name, with their sizes, and say which are there.

    Attributes:
        data_dir: where torchvision's data sets are.
        messages: what is printed.
    """

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    messages: Messages = Messages()


def report(flags: Report) -> None:
    """Trains, compresses, compares and explains; prints the path of the page."""
    from population.spec import canonical
    from ssl_models.datasets import check_data_name, display_name
    from ssl_models.zoo import check_model_name

    named, execution = flags.spec.population, flags.execution
    if not flags.spec.own.checkpoints:
        check_model_name(named.model)
    check_data_name(named.data)
    slurm = execution.slurm()
    slug = f"{flags.spec.network}-{display_name(named.data)}".replace(":", "-")
    out = flags.out or Path("runs") / f"{slug}-{key(canonical(flags.spec))[:8]}"

    from pie_report.command_line import command_line
    from pie_report.pipeline import describe, open_members, run
    from pie_report.run_folder import check_output, check_same_spec, write_run

    check_output(out)
    places = flags.places
    population = open_members(
        replace(flags.spec, population=execution.placed(named)),
        store=places.open_store(),
        data_dir=places.data_dir,
        download=places.download,
        devices=execution.devices,
    )
    side, digest = _side_data(flags.side_labels, population.data.test.samples.sample_id)
    sections = describe(
        flags.spec, population, command_line(flags.spec, devices=execution.devices), side_labels=digest
    )
    check_same_spec(out, sections, force=flags.force)
    with _progress(flags.messages) as progress:
        workers = execution.processes(population.member.device)
        found = run(flags.spec, population, sections, progress, side=side, workers=workers, slurm=slurm)
        _finish(flags.messages, write_run(found, out))


def train(flags: Train) -> None:
    """Trains the members; prints a line for each."""
    from pie_report.pipeline import finish_members, open_population

    places, execution = flags.places, flags.execution
    store, slurm = places.open_store(), execution.slurm()
    population = open_population(
        execution.placed(flags.population),
        store=store,
        data_dir=places.data_dir,
        download=places.download,
        elsewhere=slurm is not None,
        devices=execution.devices,
    )
    with _progress(flags.messages) as progress:
        population = finish_members(
            population,
            (),
            progress,
            scores=False,
            workers=execution.processes(population.member.device),
            slurm=slurm,
            exclude_diverged=flags.population.exclude_diverged,
        )
    dense = population.dense_population()
    accuracies = (dense.predicted == dense.label).mean(axis=1)
    if flags.messages.json:
        import json

        print(json.dumps({"seeds": population.seeds, "accuracy": accuracies.tolist()}))
        return
    for index, (seed, accuracy) in enumerate(zip(population.seeds, accuracies, strict=True)):
        entry = store.root / "members" / weights_key(population.spec(index))
        print(f"seed {seed}  accuracy {accuracy:.4f}  {entry}")


def compare(flags: Compare) -> None:
    """Compares predictions; prints the path of the page."""
    from pie_report.compare import compare as compare_pair
    from pie_report.compare import describe_pair, load_pair
    from pie_report.run_folder import check_output, check_same_spec, write_run

    check_output(flags.out)
    dense, compressed = load_pair(flags.dense, flags.compressed)
    side, digest = _side_data(flags.side_labels, dense.sample_id)
    groups = flags.groups.read(dense.sample_id)
    design, seed = flags.design, flags.seed
    sections = describe_pair(dense, compressed, design=design, seed=seed, side_labels=digest, groups=groups)
    check_same_spec(flags.out, sections, force=flags.force)
    found = compare_pair(
        dense, compressed, design=design, seed=seed, side=side, side_labels=digest, groups=groups
    )
    _finish(flags.messages, write_run(found, flags.out))


def across(flags: Across) -> None:
    """Puts reports side by side; prints the path of the page."""
    from pie_report.across import compare_across, load_runs
    from pie_report.across_folder import check_across_output, write_across

    if flags.seed < 0:
        raise InputError(f"--seed must not be negative, not {flags.seed}")
    check_across_output(flags.out)
    found = compare_across(load_runs(flags.runs), seed=flags.seed)
    page = write_across(found, flags.out, seed=flags.seed)
    _finish(flags.messages, page, document="across.json")


def gallery(flags: Gallery) -> None:
    """Builds the gallery again; prints its path."""
    from pie_report.run_folder import render_gallery

    _finish(flags.messages, render_gallery(flags.run), run=flags.run)


def figures(flags: Figures) -> None:
    """Draws the figures again; prints their folder."""
    from pie_report.run_folder import render_figures

    render_figures(flags.run)
    _finish(flags.messages, flags.run / "figures", run=flags.run)


def stats(flags: Stats) -> None:
    """Computes the statistics again; prints the path of the page."""
    from pie_report.report import Report as StoredReport
    from pie_report.restated import restated
    from pie_report.run_folder import write_run

    stored = StoredReport.load(flags.run)
    sample_id = stored.predictions["dense"].sample_id
    side, digest = _side_data(flags.side_labels, sample_id)
    again = restated(stored, side=side, side_labels=digest, groups=flags.groups.read(sample_id))
    _finish(flags.messages, write_run(again, flags.run))


def _side_data(path: Path | None, sample_id: "NDArray[np.str_]") -> "tuple[SideData | None, str | None]":
    """What a file says of the samples, and the digest that the report names it by."""
    if path is None:
        return None, None
    from pie.side_data import read_side_data
    from pie_report.statistics import check_names
    from population.store import file_digest

    side = read_side_data(path, sample_id)
    check_names(side)
    return side, file_digest(path)[:16]


def models(flags: Models) -> None:
    """Prints the models."""
    from ssl_models.listing import list_models, models_text

    print(_as_json(list_models()) if flags.messages.json else models_text())


def data(flags: Data) -> None:
    """Prints the data sets."""
    from ssl_models.listing import data_text, list_data

    print(_as_json(list_data(flags.data_dir)) if flags.messages.json else data_text(flags.data_dir))


def _as_json(content: object) -> str:
    import json

    return json.dumps(content, indent=1)


def _finish(
    messages: Messages, path: Path, *, run: Path | None = None, document: str = "report.json"
) -> None:
    """Prints where the result is, or the document itself."""
    told = (run or path.parent) / document
    print(told.read_text(encoding="utf-8").rstrip() if messages.json else path.absolute())


def _progress(messages: Messages) -> "Progress":
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=messages.quiet)


#: By name: what a command is told, and what it does.
COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "report": (Report, report),
    "compare": (Compare, compare),
    "across": (Across, across),
    "gallery": (Gallery, gallery),
    "figures": (Figures, figures),
    "stats": (Stats, stats),
    "train": (Train, train),
    "models": (Models, models),
    "data": (Data, data),
}
EXAMPLES = {
    "report": "pie-report --model simclr_r18 --merge 0.5 --prune 0.9",
    "compare": "pie compare dense.npz compressed.npz --design independent --out cmp",
    "across": "pie across runs/simclr runs/supervised --out runs/objectives",
    "gallery": "pie gallery runs/x",
    "figures": "pie figures runs/x",
    "stats": "pie stats runs/x --side-labels human_votes.csv",
    "train": "pie train --model supervised_r18 --members 30",
    "models": "pie models",
    "data": "pie data --data-dir ~/data",
}
