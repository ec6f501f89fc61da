"""The command that gives a report again."""

import shlex
from dataclasses import fields
from pathlib import Path

from population.schedule import ScheduleSpec
from population.spec import METHOD_NAMES, ReportSpec
from ssl_models.datasets import display_name


def command_line(spec: ReportSpec, *, devices: int = 1) -> str:
    """The command that gives this report, without paths and with all defaults that matter said.

    Args:
        spec: what to report.
        devices: how many train a member together.
    """
    named, own = spec.population, spec.own
    parts = ["pie", "report"]
    if own.checkpoints:
        parts += ["--checkpoints", *(shlex.quote(Path(c).name) for c in own.checkpoints)]
    parts += ["--arch", own.arch] if own.arch else ["--model", named.model]
    parts += ["--data", display_name(named.data)]
    for name in ("mean", "std"):
        numbers = getattr(own, name)
        parts += [f"--{name}", *map(_word, numbers)] if numbers else []
    for name in METHOD_NAMES:
        amounts = getattr(spec, name)
        parts += [f"--{name}", *map(_word, amounts)] if amounts else []
    parts += [] if own.checkpoints else ["--members", str(named.members)]
    parts += ["--probe", *spec.probe, "--repair", *spec.repair]
    parts += _schedule_parts(spec.timing)
    for name in ("width", "stem", "epochs", "batch_size", "evaluation"):
        value = getattr(named, name)
        parts += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    parts += [] if named.label_fraction is None else ["--label-fraction", _word(named.label_fraction)]
    parts += ["--exclude-diverged"] if named.exclude_diverged else []
    parts += ["--judged", named.judged] if named.judged != "test" else []
    parts += ["--train-share", _word(named.train_share)] if named.train_share < 1 else []
    parts += ["--forgetting"] if named.forgetting else []
    given = named.attributes
    if given.label_column is not None:
        parts += ["--groups", "FILE", "--label-column", shlex.quote(given.label_column)]
        parts += ["--label-bins", *map(_word, given.label_bins)] if given.label_bins else []
    parts += ["--gpus", str(devices)] if devices > 1 else []
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
        parts += [_word(word) if isinstance(word, float) else str(word) for word in words]
    return parts


def _word(number: float) -> str:
    """A number as short as it can be without becoming another one."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
