"""The N samples of an evaluation set: stable ids, labels, class names, group columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError


@dataclass(frozen=True)
class SampleSet:
    """N samples, identified for good.

    Attributes:
        sample_id: unique ids, shape (N,), str; they do not change with the order of reading.
        label: class indices in ``[0, len(class_names))``, shape (N,), int64.
        class_names: one name per class.
        groups: further columns by name (for example gender), each of shape (N,), str.

    Raises:
        InputError: if ids repeat, lengths differ or a label is outside the classes.
    """

    sample_id: NDArray[np.str_]
    label: NDArray[np.int64]
    class_names: tuple[str, ...]
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.sample_id)
        if len(np.unique(self.sample_id)) != n:
            raise InputError("sample ids repeat; every sample needs an id of its own")
        for name, column in {"label": self.label, **self.groups}.items():
            if len(column) != n:
                raise InputError(f"{name} has {len(column)} entries for {n} samples")
        if n and (self.label.min() < 0 or self.label.max() >= len(self.class_names)):
            raise InputError(f"labels must be in [0, {len(self.class_names)})")

    def __len__(self) -> int:
        return len(self.sample_id)
