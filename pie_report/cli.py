"""The command line: argv -> spec. Heavy imports happen inside the command that needs them."""

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pie_report.execution import Execution
from population.errors import InputError, unknown_name
from population.schedule import ScheduleSpec
from population.spec import METHOD_NAMES, PopulationSpec, ReportSpec, key, weights_key

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from rich.progress import Progress

    from pie.side_data import SideData
    from pie_report.published import Published
    from population.store import Store

_T = TypeVar("_T")
#: Colours and lines that the parser draws where standard output is a terminal; elsewhere hyphens.
_FRAME = re.compile(r"\x1b\[[0-9;]*m|[│╭╰╮╯─]")
_EXIT_FAILED, _EXIT_INPUT = 1, 2
_log = logging.getLogger(__name__)
#: Signals that end a command in order. Its exit status is then 128 and the signal, as a shell has it.
_STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


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


def _report(flags: Report) -> None:
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
    sections = describe(flags.spec, population, _command_line(flags.spec), side_labels=digest)
    check_same_spec(out, sections, force=flags.force)
    with _progress(flags.messages) as progress:
        workers = execution.processes(population.member.device)
        report = run(flags.spec, population, sections, progress, side=side, workers=workers, slurm=slurm)
        _finish(flags.messages, write_run(report, out))


def _train(flags: Train) -> None:
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


def _compare(flags: Compare) -> None:
    from pie_report.compare import compare, describe_pair, load_pair
    from pie_report.run_folder import check_output, check_same_spec, write_run

    check_output(flags.out)
    dense, compressed = load_pair(flags.dense, flags.compressed)
    side, digest = _side_data(flags.side_labels, dense.sample_id)
    groups = flags.groups.read(dense.sample_id)
    design, seed = flags.design, flags.seed
    sections = describe_pair(dense, compressed, design=design, seed=seed, side_labels=digest, groups=groups)
    check_same_spec(flags.out, sections, force=flags.force)
    report = compare(
        dense, compressed, design=design, seed=seed, side=side, side_labels=digest, groups=groups
    )
    _finish(flags.messages, write_run(report, flags.out))


def _across(flags: Across) -> None:
    from pie_report.across import compare_across, load_runs
    from pie_report.across_folder import check_across_output, write_across

    if flags.seed < 0:
        raise InputError(f"--seed must not be negative, not {flags.seed}")
    check_across_output(flags.out)
    found = compare_across(load_runs(flags.runs), seed=flags.seed)
    page = write_across(found, flags.out, seed=flags.seed)
    _finish(flags.messages, page, document="across.json")


def _gallery(flags: Gallery) -> None:
    from pie_report.run_folder import render_gallery

    _finish(flags.messages, render_gallery(flags.run), run=flags.run)


def _figures(flags: Figures) -> None:
    from pie_report.run_folder import render_figures

    render_figures(flags.run)
    _finish(flags.messages, flags.run / "figures", run=flags.run)


def _stats(flags: Stats) -> None:
    from pie_report.report import Report as StoredReport
    from pie_report.restated import restated
    from pie_report.run_folder import write_run

    report = StoredReport.load(flags.run)
    sample_id = report.predictions["dense"].sample_id
    side, digest = _side_data(flags.side_labels, sample_id)
    again = restated(report, side=side, side_labels=digest, groups=flags.groups.read(sample_id))
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


def _models(flags: Models) -> None:
    from ssl_models.listing import list_models, models_text

    print(_as_json(list_models()) if flags.messages.json else models_text())


def _data(flags: Data) -> None:
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


_COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "report": (Report, _report),
    "compare": (Compare, _compare),
    "across": (Across, _across),
    "gallery": (Gallery, _gallery),
    "figures": (Figures, _figures),
    "stats": (Stats, _stats),
    "train": (Train, _train),
    "models": (Models, _models),
    "data": (Data, _data),
}
_EXAMPLES = {
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``pie``.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        0, 1 if something failed, 2 for bad input, 130 after Ctrl-C, 141 if nobody reads the output, 143 after
        SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if arguments else _EXIT_INPUT
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"pie-toolkit {version('pie-toolkit')}")
        return 0
    if arguments[0] not in _COMMANDS:
        _complain(unknown_name("command", arguments[0], _COMMANDS))
        return _EXIT_INPUT
    return _run_command(arguments[0], arguments[1:])


def main_report() -> int:
    """Entry point of ``pie-report``, short for ``pie report``."""
    wants_version = sys.argv[1:] == ["--version"]
    return main(["--version"] if wants_version else ["report", *sys.argv[1:]])


def _run_command(name: str, arguments: list[str]) -> int:
    flags_type, command = _COMMANDS[name]
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    debug = "--debug" in arguments
    with _stops_caught() as caught:
        try:
            command(_parse(flags_type, name, arguments))
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has left, as head does. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except (KeyboardInterrupt, Exception) as error:
            if caught:  # whatever libraries made of the interruption on its way
                _complain(f"{_STOPS[caught[0]]}; the same command goes on from here")
                return 128 + caught[0]
            is_input = isinstance(error, InputError)
            if debug:
                traceback.print_exc()
            elif is_input:
                _complain(error)
            else:
                _complain(f"failed: {type(error).__name__}: {error} (--debug shows where)")
            return _EXIT_INPUT if is_input else _EXIT_FAILED
    return 0


@contextlib.contextmanager
def _stops_caught() -> Iterator[list[signal.Signals]]:
    """Makes each signal of ``_STOPS`` a KeyboardInterrupt, so that work ends in order; lists those caught."""
    caught: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOPS}
    # A shell's script makes what it starts in the background deaf to Ctrl-C.
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _complain(message: object) -> None:
    print(f"pie: {' '.join(str(message).split())}", file=sys.stderr)


def _overview() -> str:
    lines = ["usage: pie COMMAND [OPTIONS]", "", "What does a network forget when it is made smaller?", ""]
    for name, (flags_type, _) in _COMMANDS.items():
        summary = (flags_type.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:9} {summary}")
    lines += [
        "",
        "pie COMMAND --help lists the options of a command; pie --version the version.",
        "",
        "examples:",
    ]
    return "\n".join([*lines, *(f"  {example}" for example in _EXAMPLES.values())])


def _parse(flags_type: type[_T], name: str, arguments: list[str]) -> _T:
    """Parses with tyro; its boxed messages become one line."""
    _check_amounts(arguments)
    summary = (flags_type.__doc__ or "").splitlines()[0]
    preset = _preset(arguments) if flags_type is Report else None
    begin: dict[str, Any] = {} if preset is None else {"default": Report(preset.spec)}
    if preset is not None:
        summary = "\n\n".join([summary, preset.source, "Different here: " + "; ".join(preset.deviations)])
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            flags: _T = tyro.cli(
                flags_type,
                args=arguments,
                prog=f"pie {name}",
                description=f"{summary}\n\nexample: {_EXAMPLES[name]}",
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
                **begin,
            )
            return flags
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        reason = stop.__context__
        while reason is not None and not isinstance(reason, InputError):
            reason = reason.__context__
        raise reason or InputError(_first_paragraph(captured.getvalue())) from None


def _preset(arguments: Sequence[str]) -> "Published | None":
    """The preset that a command names; the parser needs it before it reads the other options."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--preset" and (equals or place + 1 < len(arguments)):
            from pie_report.published import published

            return published(value if equals else arguments[place + 1])
    return None


def _check_amounts(arguments: list[str]) -> None:
    """Refuses what a list would swallow in silence: an empty one, or one given twice."""
    wanted = dict.fromkeys(METHOD_NAMES, "amount in [0, 1)")
    wanted |= {"checkpoints": "file or pattern", "mean": "number", "std": "number"}
    wanted |= {"repair": "repair", "probe": "probe", "group-columns": "column", "label-bins": "number"}
    wanted |= {"schedule": "name", "finetune-epochs": "number of epochs", "prune-window": "begin and end"}
    for flag, what in ((f"--{name}", what) for name, what in wanted.items()):
        places = [i for i, a in enumerate(arguments) if a.split("=")[0] == flag]
        if len(places) > 1:
            raise InputError(f"{flag} is given twice; list all after one {flag}")
        for place in places:
            following = arguments[place + 1 : place + 2]
            if "=" not in arguments[place] and (not following or following[0].startswith("--")):
                raise InputError(f"{flag} needs at least one {what}")


def _first_paragraph(box: str) -> str:
    """Text of a parser's box below its title and up to the next rule, on one line."""
    words: list[str] = []
    for line in _FRAME.sub("", box).splitlines()[1:]:
        text = line.strip()
        if text.strip("-"):
            words.append(text)
        elif words:
            break
    return " ".join(words) or "the arguments could not be read"


def _command_line(spec: ReportSpec) -> str:
    """The command that gives this report, without paths and with all defaults that matter said."""
    from ssl_models.datasets import display_name

    named, own = spec.population, spec.own
    parts = ["pie", "report"]
    if own.checkpoints:
        parts += ["--checkpoints", *(shlex.quote(Path(c).name) for c in own.checkpoints)]
    parts += ["--arch", own.arch] if own.arch else ["--model", named.model]
    parts += ["--data", display_name(named.data)]
    for name in ("mean", "std"):
        numbers = getattr(own, name)
        parts += [f"--{name}", *(f"{v:g}" for v in numbers)] if numbers else []
    for name in METHOD_NAMES:
        amounts = getattr(spec, name)
        parts += [f"--{name}", *(f"{a:g}" for a in amounts)] if amounts else []
    parts += [] if own.checkpoints else ["--members", str(named.members)]
    parts += ["--probe", *spec.probe, "--repair", *spec.repair]
    parts += _schedule_parts(spec.timing)
    for name in ("width", "stem", "epochs", "batch_size", "evaluation"):
        value = getattr(named, name)
        parts += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    parts += [] if named.label_fraction is None else ["--label-fraction", f"{named.label_fraction:g}"]
    parts += ["--exclude-diverged"] if named.exclude_diverged else []
    parts += ["--judged", named.judged] if named.judged != "test" else []
    parts += ["--train-share", f"{named.train_share:g}"] if named.train_share < 1 else []
    parts += ["--forgetting"] if named.forgetting else []
    given = named.attributes
    if given.label_column is not None:
        parts += ["--groups", "FILE", "--label-column", shlex.quote(given.label_column)]
        parts += ["--label-bins", *(f"{b:g}" for b in given.label_bins)] if given.label_bins else []
    return " ".join([*parts, "--seed", str(named.seed)])


def _schedule_parts(timing: ScheduleSpec) -> list[str]:
    """What of a command says when networks are made smaller; nothing where it is after training."""
    parts: list[str] = []
    for option in fields(timing):
        value = getattr(timing, option.name)
        if value == option.default:
            continue
        words = value if isinstance(value, tuple) else () if value is True else (value,)
        parts.append(f"--{option.name.replace('_', '-')}")
        parts += [f"{word:g}" if isinstance(word, float) else str(word) for word in words]
    return parts


def _progress(messages: Messages) -> "Progress":
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=messages.quiet)


if __name__ == "__main__":
    sys.exit(main())
