"""argv -> the options of a command, by tyro; what it complains of becomes one line."""

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from pie_report.commands import EXAMPLES, Report
from population.errors import InputError
from population.spec import METHOD_NAMES, ReportSpec

if TYPE_CHECKING:
    from pie_report.published import Published

_T = TypeVar("_T")
#: Colours and lines that the parser draws where standard output is a terminal; elsewhere hyphens.
_FRAME = re.compile(r"\x1b\[[0-9;]*m|[│╭╰╮╯─]")


def parse(flags_type: type[_T], name: str, arguments: list[str]) -> _T:
    """Options of a command from its arguments.

    Args:
        flags_type: the command's options.
        name: of the command.
        arguments: without the name.

    Raises:
        InputError: if they cannot be read; the message is one line.
        SystemExit: after help was printed.
    """
    _check_amounts(arguments)
    summary = (flags_type.__doc__ or "").splitlines()[0]
    preset = _preset(arguments) if flags_type is Report else None
    begin: dict[str, Any] = {} if preset is None else {"default": Report(_begun(preset.spec, arguments))}
    if preset is not None:
        summary = "\n\n".join([summary, preset.source, "Different here: " + "; ".join(preset.deviations)])
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            flags: _T = tyro.cli(
                flags_type,
                args=arguments,
                prog=f"pie {name}",
                description=f"{summary}\n\nexample: {EXAMPLES[name]}",
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


def _begun(spec: ReportSpec, arguments: Sequence[str]) -> ReportSpec:
    """A preset as far as it goes with the schedule that a command names."""
    places = [i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--schedule"]
    if not places:
        return spec
    first = arguments[places[0]].split("=")[1:]
    rest = itertools.takewhile(lambda word: not word.startswith("--"), arguments[places[0] + 1 :])
    schedule, timing = (*first, *rest), spec.timing
    if "gradual" not in schedule:
        timing = replace(timing, prune_window=(), prune_every=None)
    if "end" not in schedule:
        timing = replace(timing, finetune_epochs=(0,))
    return replace(spec, timing=timing)


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
