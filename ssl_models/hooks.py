"""What the training loop tells others, and what they may do: prune, record, ..."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class TrainingHook(Protocol):
    """Is told how far training has come, and may change weights in place; knows the model from its making."""

    def after_step(self, step: int, total: int) -> None:
        """Comes after each optimizer step.

        Args:
            step: steps taken, from 1.
            total: steps of the whole training.
        """
        ...

    def after_epoch(self, epoch: int) -> None:
        """Comes after the last step of an epoch, with the model in eval mode.

        Args:
            epoch: from 0.
        """
        ...

    def state(self) -> Mapping[str, Tensor]:
        """All that the hook has to know to go on from here, for checkpoints."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what ``state`` said; comes before the model gets its weights back."""
        ...
