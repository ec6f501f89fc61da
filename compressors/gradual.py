"""Gradual magnitude pruning, the schedule: Zhu and Gupta 2017, arXiv 1710.01878."""

from collections.abc import Mapping
from dataclasses import dataclass

from population.errors import InputError

#: Changes in a window whose distance nobody chose.
CHANGES = 20


@dataclass(frozen=True)
class Window:
    """The steps of a training at which more weights go.

    Attributes:
        first: optimizer steps taken when pruning begins, at sparsity 0 (the paper's t0).
        every: steps between two changes (Delta t), at least 1.
        changes: number of changes (n), at least 1.
    """

    first: int
    every: int
    changes: int

    @property
    def last(self) -> int:
        """Step of the last change, after which the sparsity is the final one."""
        return self.first + self.every * self.changes

    def sparsities(self, final: float) -> Mapping[int, float]:
        """The sparsity to reach at each change, by step.

        Equation 1 with an initial sparsity of 0: ``s_t = s_f (1 - (1 - (t - t0) / (n Delta t))^3)``.

        Args:
            final: sparsity s_f after the last change, in [0, 1).
        """
        return {
            self.first + self.every * i: final * (1 - (1 - i / self.changes) ** 3)
            for i in range(self.changes + 1)
        }


def window_of(begin: float, end: float, every: int | None, *, total: int) -> Window:
    """Settles the window of a training.

    Args:
        begin: where it begins: in [0, 1] a share of the training, above 1 a number of steps.
        end: where it ends, likewise; the last change is at most here, as changes are equally far apart.
        every: steps between changes; None for a ``CHANGES``-th part of the window, at least 1.
        total: steps of the whole training.

    Raises:
        InputError: if the window does not lie in the training, or has no room for a change.
    """
    first, last = (round(total * edge) if edge <= 1 else int(edge) for edge in (begin, end))
    if not first < last <= total:
        raise InputError(
            f"--prune-window {begin:g} {end:g} is steps {first} to {last} of a training of {total} steps; it"
            " has to end after it begins, and within the training"
        )
    step = every or max(1, (last - first) // CHANGES)
    if step > last - first:
        raise InputError(
            f"--prune-every {step}: the window {begin:g} {end:g} has {last - first} steps, so that nothing"
            " would be pruned"
        )
    return Window(first, step, (last - first) // step)
