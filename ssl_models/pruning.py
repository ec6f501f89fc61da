"""Weights that go while a network trains, and never come back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressors.magnitude import magnitude_masks, prunable_weights


class PruningHook:
    """Keeps the weights of a mask at exactly zero, and removes more at given steps; a ``TrainingHook``.

    A change removes the smallest of the weights that are left, so masks only grow. In between, each step's
    update of a removed weight is undone. The optimizer's moments stay as they are, and so does the target
    network of BYOL, which follows the pruned network.

    Attributes:
        masks: per weight False where it was removed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sparsities: Mapping[int, float],
        scope: str = "global",
        classifier: bool = False,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prunes the model at once if there is a change at step 0, or masks to begin with.

        Args:
            model: that is going to be trained; pruned in place.
            sparsities: by steps taken, the sparsity that is reached then, never falling. Of n weights
                ``round(sparsity * n)`` are removed.
            scope: ``global`` or ``layer``, see ``compressors.magnitude.magnitude_masks``.
            classifier: whether the classifier takes part.
            masks: of weights that are removed from the beginning; by default of none.
        """
        names = [*masks] if masks is not None else prunable_weights(model, classifier=classifier)
        self._model, self._names = model, names
        self._sparsities, self._scope = sparsities, scope
        if masks is None:
            masks = {n: torch.ones_like(model.get_parameter(n), dtype=torch.bool) for n in names}
        self.masks: dict[str, Tensor] = dict(masks)
        self._curve: list[tuple[int, float]] = []
        self._change(0)

    def after_step(self, step: int, total: int) -> None:
        """Removes more weights if it is time to, and holds all that were removed at zero."""
        del total
        self._change(step)
        self._hold()

    def after_epoch(self, epoch: int) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Tensor]:
        """The masks, and the changes so far."""
        masks = {f"mask/{name}": mask for name, mask in self.masks.items()}
        return {**masks, "curve": torch.tensor(self._curve, dtype=torch.float64).reshape(-1, 2)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes the masks and changes that ``state`` gave; the weights are restored by others."""
        self.masks = {n: state[f"mask/{n}"].to(mask.device) for n, mask in self.masks.items()}
        self._curve = [(int(step), share) for step, share in state["curve"].tolist()]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Steps taken and sparsity that was reached, at step 0 and at each change."""
        return list(self._curve)

    @property
    def sparsity(self) -> float:
        """Share of the weights that are removed by now."""
        removed = sum(int((~mask).sum()) for mask in self.masks.values())
        return removed / sum(mask.numel() for mask in self.masks.values())

    def _change(self, step: int) -> None:
        if step in self._sparsities:
            sizes = {name: self._model.get_parameter(name).detach().abs() for name in self._names}
            # Below every weight that is left, zeros among them.
            left = {name: size.masked_fill(~self.masks[name], -1) for name, size in sizes.items()}
            self.masks = magnitude_masks(left, self._sparsities[step], scope=self._scope)
            self._hold()
        if step == 0 or step in self._sparsities:
            self._curve.append((step, self.sparsity))

    def _hold(self) -> None:
        with torch.no_grad():
            for name, mask in self.masks.items():
                self._model.get_parameter(name).masked_fill_(~mask, 0)
