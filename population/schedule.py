"""When in its life a network is made smaller: as the command line says it, and for one condition."""

from collections.abc import Mapping
from dataclasses import dataclass

from population.errors import InputError, unknown_name

SCHEDULES = ("end", "start", "midway", "gradual")
SCOPES = ("global", "layer")
#: Where gradual pruning happens by default, in shares of the training.
WINDOW = (0.25, 0.75)


@dataclass(frozen=True)
class Schedule:
    """Anything but compression once, after training, with nothing after it.

    Attributes:
        when: ``end``: after training, which goes on for ``finetune_epochs``. ``start``: before the first
            step; ``midway``: after half of the steps; ``gradual``: by and by in a window.
        finetune_epochs: epochs after ``end``; 0 for all others.
        window: begin and end of ``gradual``: in [0, 1] a share of the training, above 1 a number of steps.
        every: steps between the changes of ``gradual``; None for a 20th part of the window.
    """

    when: str
    finetune_epochs: int = 0
    window: tuple[float, float] = WINDOW
    every: int | None = None

    @property
    def title(self) -> str:
        """What it adds to the name of a condition."""
        if self.when == "end":
            return f"+ {self.finetune_epochs} epoch{'s' if self.finetune_epochs > 1 else ''}"
        if self.when != "gradual" or self.window == WINDOW:
            return self.when
        return f"{self.when} {self.window[0]:g} {self.window[1]:g}"


@dataclass(frozen=True)
class ScheduleSpec:
    """When and how networks are made smaller, as the command line names it.

    Attributes:
        schedule: when: end (after training), start (before it), midway, or gradual (by and by, for --prune
            alone). Each is a condition. All but end train networks of their own, with seeds of their own.
        finetune_epochs: epochs that networks train on after compression at the end, with the objective that
            they were trained for; with several numbers each is a condition.
        prune_window: begin and end of gradual pruning: numbers in [0, 1] are shares of the training, whole
            numbers above 1 are steps (default: 0.25 0.75). Each further pair is a condition.
        prune_every: steps between two changes of gradual pruning (default: a 20th part of the window).
        prune_scope: global compares the weights of all layers, layer prunes each by the same fraction.
        prune_classifier: prune the classifier as well. Of contrastive networks it is the probe, which is
            pruned after it was fitted.

    Raises:
        InputError: if a value is out of range or an option lacks its fellow.
    """

    schedule: tuple[str, ...] = ("end",)
    finetune_epochs: tuple[int, ...] = (0,)
    prune_window: tuple[float, ...] = ()
    prune_every: int | None = None
    prune_scope: str = "global"
    prune_classifier: bool = False

    def __post_init__(self) -> None:
        for name in self.schedule:
            if name not in SCHEDULES:
                raise unknown_name("schedule", name, SCHEDULES)
        if self.prune_scope not in SCOPES:
            raise unknown_name("scope", self.prune_scope, SCOPES)
        for name in ("schedule", "finetune_epochs"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"--{name.replace('_', '-')} needs at least one value, and each once")
        if min(self.finetune_epochs) < 0:
            raise InputError(f"--finetune-epochs must not be negative, not {min(self.finetune_epochs)}")
        if "end" not in self.schedule and self.finetune_epochs != (0,):
            raise InputError("--finetune-epochs is for networks compressed after training: --schedule end")
        for name in ("prune_window", "prune_every"):
            if getattr(self, name) and "gradual" not in self.schedule:
                raise InputError(f"--{name.replace('_', '-')} is for --schedule gradual")
        if self.prune_every is not None and self.prune_every < 1:
            raise InputError(f"--prune-every must be at least 1, not {self.prune_every}")
        self._check_windows()

    def _check_windows(self) -> None:
        edges = self.prune_window
        if len(edges) % 2:
            raise InputError(f"--prune-window needs pairs of a begin and an end, not {len(edges)} numbers")
        for edge in edges:
            if not (0 <= edge <= 1 or (edge > 1 and edge % 1 == 0)):
                raise InputError(
                    f"--prune-window takes shares in [0, 1] and whole numbers of steps above 1, not {edge:g}"
                )
        for begin, end in self.windows:
            if begin >= end and (begin <= 1) == (end <= 1):
                raise InputError(f"--prune-window {begin:g} {end:g} ends before anything is pruned")
        if len(set(self.windows)) < len(self.windows):
            raise InputError("--prune-window has the same pair twice")

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """Begin and end of each window of gradual pruning."""
        edges = tuple(map(float, self.prune_window or WINDOW))  # so that equal ones have equal keys
        return tuple(zip(edges[::2], edges[1::2], strict=True))

    def schedules(self, method: str) -> tuple[Schedule | None, ...]:
        """Every schedule that a method is to have; None for compression after training with nothing after."""
        found: list[Schedule | None] = []
        for when in self.schedule:
            if when == "end":
                found += [Schedule(when, n) if n else None for n in self.finetune_epochs]
            elif when != "gradual":
                found.append(Schedule(when))
            elif method == "prune":
                found += [Schedule(when, 0, window, self.prune_every) for window in self.windows]
        return tuple(found)

    def check_methods(self, amounts: Mapping[str, tuple[float, ...]]) -> None:
        """Raises InputError unless the options suit the methods that have an amount."""
        pruned = bool(amounts["prune"])
        others = [name for name, values in amounts.items() if values and name != "prune"]
        if "gradual" in self.schedule and not pruned:
            raise InputError("--schedule gradual is for --prune alone")
        if self.schedule == ("gradual",) and others:
            raise InputError(
                f"--schedule gradual is for --prune alone; --{others[0]} needs one of end, start, midway"
            )
        if not pruned and (self.prune_scope != "global" or self.prune_classifier):
            raise InputError("--prune-scope and --prune-classifier are for --prune")
