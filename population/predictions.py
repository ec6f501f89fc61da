"""What K models say about N samples."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from population.errors import InputError


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels that K models of one population give to N samples.

    Knows nothing of the framework that made it. Arrays are copied to the types below.

    Attributes:
        sample_id: unique ids, shape (N,), str.
        predicted: predicted class indices, shape (K, N), int64, non-negative.
        label: true class indices, shape (N,), int64, or None where they are not known.
        margin: how clear each prediction is, shape (K, N), float64; this toolkit stores the
            largest minus the second largest class probability, in [0, 1]. None if not known.
        probabilities: class probabilities, shape (K, N, C), float32, in [0, 1]. None if not known.
        class_names: one name per class, shape (C,), str, or None where they are not known.

    Raises:
        InputError: if shapes disagree, ids repeat, values are not finite or classes are out of range.
    """

    sample_id: NDArray[np.str_]
    predicted: NDArray[np.int64]
    label: NDArray[np.int64] | None = None
    margin: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float32] | None = None
    class_names: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "sample_id", np.asarray(self.sample_id).astype(np.str_))
        set_field(self, "predicted", _class_indices(self.predicted, "predicted"))
        if self.sample_id.ndim != 1 or len(self.sample_id) == 0:
            raise InputError("sample_id must be a list of at least one id, shape (N,)")
        k_n = self.predicted.shape
        if self.predicted.ndim != 2 or k_n[1] != len(self.sample_id) or k_n[0] == 0:
            raise InputError(f"predicted must have shape (K, {len(self.sample_id)}) with K >= 1, not {k_n}")
        if len(set(self.sample_id.tolist())) != len(self.sample_id):
            raise InputError("sample_id has repeated ids; every sample needs an id of its own")
        if self.label is not None:
            set_field(self, "label", _class_indices(self.label, "label"))
            _check_shape("label", self.label, k_n[1:])
        if self.margin is not None:
            set_field(self, "margin", _finite(self.margin, "margin", np.float64))
            _check_shape("margin", self.margin, k_n)
        if self.class_names is not None:
            set_field(self, "class_names", np.asarray(self.class_names).astype(np.str_))
            if self.class_names.ndim != 1:
                raise InputError("class_names must be a list of names, shape (C,)")
        if self.probabilities is not None:
            set_field(self, "probabilities", _finite(self.probabilities, "probabilities", np.float32))
            if self.probabilities.ndim != 3:
                raise InputError("probabilities must have shape (K, N, C)")
            _check_shape("probabilities", self.probabilities[..., 0], k_n)
            if self.probabilities.min() < -1e-6 or self.probabilities.max() > 1 + 1e-6:
                raise InputError("probabilities must be in [0, 1]")
        given = [n for n in (self._named_classes, self._probability_classes) if n is not None]
        if len(set(given)) > 1:
            raise InputError(f"class_names and probabilities disagree on the classes: {given}")
        largest = max(int(a.max()) for a in (self.predicted, self.label) if a is not None)
        if given and largest >= given[0]:
            raise InputError(f"class index {largest} is outside the {given[0]} classes")

    @property
    def _named_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @property
    def _probability_classes(self) -> int | None:
        return None if self.probabilities is None else self.probabilities.shape[2]

    @property
    def k(self) -> int:
        """Number of models."""
        return int(self.predicted.shape[0])

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.predicted.shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes: as named, else as many as the indices need."""
        known = self._named_classes or self._probability_classes
        if known:
            return known
        return 1 + max(int(a.max()) for a in (self.predicted, self.label) if a is not None)

    @cached_property
    def modal_label(self) -> NDArray[np.int64]:
        """Most frequent predicted class per sample, shape (N,); ties go to the smallest index."""
        return self._modal[0]

    @cached_property
    def modal_tie(self) -> NDArray[np.bool_]:
        """Whether another class has as many votes as the modal label, shape (N,)."""
        return self._modal[1]

    @cached_property
    def modal_votes(self) -> NDArray[np.int64]:
        """Number of models that predict the modal label, shape (N,), in [1, K]."""
        return self._modal[2]

    @cached_property
    def _modal(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        # Runs of equal labels in each sorted column are the votes: memory is O(K N) however many
        # classes there are, and the first of the longest runs is the smallest class.
        ordered = np.sort(self.predicted, axis=0)
        run = np.ones_like(ordered)
        for row in range(1, self.k):
            run[row] = np.where(ordered[row] == ordered[row - 1], run[row - 1] + 1, 1)
        best = run.max(axis=0)
        modal = ordered[np.argmax(run == best, axis=0), np.arange(self.n)]
        return modal, (run == best).sum(axis=0) > 1, best

    def votes(self, num_classes: int | None = None) -> NDArray[np.int64]:
        """Counts the models that predict each class.

        Args:
            num_classes: width of the table; by default ``self.num_classes``.

        Returns:
            Counts, shape (N, C); every row sums to K.
        """
        width = num_classes or self.num_classes
        flat = self.predicted + width * np.arange(self.n)
        return np.bincount(flat.ravel(), minlength=width * self.n).reshape(self.n, width)

    def align(self, sample_id: NDArray[np.str_]) -> Self:
        """Reorders the samples to the given ids.

        Args:
            sample_id: the wanted order, shape (N,).

        Returns:
            The same predictions in that order.

        Raises:
            InputError: if the two sets of ids differ.
        """
        if np.array_equal(self.sample_id, sample_id):
            return self
        order, wanted = np.argsort(self.sample_id), np.argsort(sample_id)
        if not np.array_equal(self.sample_id[order], np.asarray(sample_id)[wanted]):
            missing = len(np.setdiff1d(sample_id, self.sample_id))
            extra = len(np.setdiff1d(self.sample_id, sample_id))
            raise InputError(
                f"the two predictions are of different samples: {missing} ids are missing"
                f" and {extra} are not expected"
            )
        index = np.empty_like(order)
        index[wanted] = order
        return self.take(index)

    def take(self, index: NDArray[np.intp]) -> Self:
        """Selects samples by position, in the given order."""
        return type(self)(
            sample_id=self.sample_id[index],
            predicted=self.predicted[:, index],
            label=None if self.label is None else self.label[index],
            margin=None if self.margin is None else self.margin[:, index],
            probabilities=None if self.probabilities is None else self.probabilities[:, index],
            class_names=self.class_names,
        )

    @classmethod
    def stack(cls, members: Sequence["Predictions"]) -> Self:
        """Joins predictions of the same samples into one population.

        Args:
            members: at least one; samples are matched by id. Margins and probabilities are kept
                where every member has them.

        Raises:
            InputError: if the samples or their labels differ.
        """
        first = members[0]
        rows = [m.align(first.sample_id) for m in members]
        for other in rows[1:]:
            if (other.label is None) != (first.label is None) or (
                first.label is not None
                and other.label is not None
                and not np.array_equal(other.label, first.label)
            ):
                raise InputError("the members disagree on the true labels")
        margins = [m.margin for m in rows if m.margin is not None]
        probabilities = [m.probabilities for m in rows if m.probabilities is not None]
        return cls(
            sample_id=first.sample_id,
            predicted=np.concatenate([m.predicted for m in rows]),
            label=first.label,
            margin=np.concatenate(margins) if len(margins) == len(rows) else None,
            probabilities=np.concatenate(probabilities) if len(probabilities) == len(rows) else None,
            class_names=first.class_names,
        )

    def save(self, path: Path) -> None:
        """Writes a compressed npz with one array per field; unknown fields are left out."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``save`` or any other program wrote.

        Args:
            path: an npz with ``sample_id`` and ``predicted``, and any of the other fields.

        Raises:
            InputError: if the file is absent, damaged, holds pickled objects or lacks a field.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no such predictions file: {path}")
        try:
            # numpy leaves a file open that it opened itself and cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {f.name: archive[f.name] for f in fields(cls) if f.name in archive.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
            raise InputError(f"{path} is not a readable npz of plain arrays ({error})") from error
        missing = {"sample_id", "predicted"} - set(arrays)
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}")
        try:
            return cls(**arrays)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _class_indices(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise InputError(f"{name} must be whole class indices; it has NaN, infinite or broken values")
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must be class indices, not of type {array.dtype}")
    if array.size and array.min() < 0:
        raise InputError(f"{name} must not be negative")
    return array.astype(np.int64)


def _finite(values: ArrayLike, name: str, dtype: type[np.floating]) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must be numbers, not of type {array.dtype}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} has NaN or infinite values")
    return array.astype(dtype)


def _check_shape(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"{name} must have shape {shape}, not {array.shape}")
