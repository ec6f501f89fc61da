"""Two populations of the same samples, checked and put in the same order."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError, unknown_name
from population.predictions import Predictions

Design = Literal["paired", "independent"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A dense and a compressed population that can be compared.

    Attributes:
        dense: of K models, before.
        compressed: of K' models, after, with the samples in the order of ``dense``.
        label: true class indices from whichever side has them, shape (N,), or None.
        class_names: from whichever side has them, else the class indices as text, shape (C,).
    """

    dense: Predictions
    compressed: Predictions
    label: NDArray[np.int64] | None
    class_names: NDArray[np.str_]

    @property
    def single(self) -> bool:
        """Whether there is one model on each side, so that nothing is known of other seeds."""
        return self.dense.k == 1


def compare(dense: Predictions, compressed: Predictions, *, design: Design) -> Comparison:
    """Matches two populations, or two single models, by sample id.

    Args:
        dense: before.
        compressed: after.
        design: "paired" where compressed member m was made from dense member m, else "independent".

    Returns:
        Both, in one order, with the labels and class names that they share.

    Raises:
        InputError: if the samples, labels or class names differ, a class has no name, one side alone has a
            single model, a paired design has unequal K, or the design is unknown.
    """
    if design not in ("paired", "independent"):
        raise unknown_name("design", design, ("paired", "independent"))
    if min(dense.k, compressed.k) == 1 < max(dense.k, compressed.k):
        raise InputError(
            f"at least 2 models are needed on each side, or 1 on both, not {dense.k} and {compressed.k}"
        )
    if design == "paired" and dense.k != compressed.k:
        raise InputError(f"a paired design needs equal K, not {dense.k} and {compressed.k}")
    compressed = compressed.align(dense.sample_id)
    label = _agreed(dense.label, compressed.label, "true labels")
    class_names = _agreed(dense.class_names, compressed.class_names, "class names")
    num_classes = max(dense.num_classes, compressed.num_classes)
    if class_names is None:
        class_names = np.arange(num_classes).astype(np.str_)
    elif len(class_names) < num_classes:
        raise InputError(f"there are {len(class_names)} class names for {num_classes} classes")
    return Comparison(dense, compressed, label, class_names)


def _agreed(
    dense: NDArray[_Scalar] | None, compressed: NDArray[_Scalar] | None, what: str
) -> NDArray[_Scalar] | None:
    """What both sides say, or the one that says anything."""
    if dense is not None and compressed is not None and not np.array_equal(dense, compressed):
        raise InputError(f"the two predictions disagree on the {what}")
    return compressed if dense is None else dense
