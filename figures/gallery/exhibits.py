"""What the gallery shows besides numbers: the images and the attribution maps of the PIEs."""

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Images of PIEs, and attribution maps of some of them. M and P may be 0.

    Attributes:
        sample_id: unique ids of the samples that are a PIE in some condition, shape (M,), str.
        image: their images, red, green and blue, shape (M, H, W, 3), uint8.
        map_condition: the condition that each pair of maps belongs to, shape (P,), str.
        map_sample_id: the sample that each pair of maps belongs to, shape (P,), str; one of ``sample_id``.
        map_dense: signed attribution before compression, shape (P, H, W), float32, finite, any unit;
            positive where the pixel speaks for the class that is explained.
        map_compressed: the same after compression, in the same unit.

    Raises:
        InputError: if shapes or types disagree, ids repeat, a map has no image or is not finite.
    """

    sample_id: NDArray[np.str_]
    image: NDArray[np.uint8]
    map_condition: NDArray[np.str_]
    map_sample_id: NDArray[np.str_]
    map_dense: NDArray[np.float32]
    map_compressed: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("sample_id", "map_condition", "map_sample_id"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(np.str_))
        m, p = len(self.sample_id), len(self.map_sample_id)
        if self.image.dtype != np.uint8 or self.image.ndim != 4 or self.image.shape[::3] != (m, 3):
            raise InputError(
                f"image must be uint8 of shape ({m}, H, W, 3), not {self.image.dtype} {self.image.shape}"
            )
        if len(np.unique(self.sample_id)) != m:
            raise InputError("sample_id has repeated ids; every image needs an id of its own")
        if self.map_condition.shape != (p,):
            raise InputError("every pair of maps needs one condition and one sample id")
        pairs = set(zip(self.map_condition.tolist(), self.map_sample_id.tolist(), strict=True))
        if len(pairs) != p:
            raise InputError("a condition has two pairs of maps for the same sample")
        if not np.isin(self.map_sample_id, self.sample_id).all():
            raise InputError("there are maps of samples that have no image")
        for name, maps in (("map_dense", self.map_dense), ("map_compressed", self.map_compressed)):
            if maps.dtype != np.float32 or maps.ndim != 3 or len(maps) != p:
                raise InputError(
                    f"{name} must be float32 of shape ({p}, H, W), not {maps.dtype} {maps.shape}"
                )
            if p and maps.shape[1:] != self.image.shape[1:3]:
                raise InputError(f"{name} is {maps.shape[1:]} but the images are {self.image.shape[1:3]}")
            if not np.isfinite(maps).all():
                raise InputError(f"{name} has NaN or infinite values")

    def save(self, path: Path) -> None:
        """Writes a compressed npz with one array per field; equal exhibits give equal bytes."""
        np.savez_compressed(path, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``save`` wrote.

        Args:
            path: the npz file.

        Raises:
            InputError: if the file is absent, damaged, holds pickled objects or lacks a field.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no such exhibits file: {path}")
        names = [f.name for f in fields(cls)]
        try:
            # numpy leaves a file open that it opened itself and cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                missing = sorted(set(names) - set(archive.files))
                arrays = {name: archive[name] for name in names if name not in missing}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
            raise InputError(f"{path} is not a readable npz of plain arrays ({error})") from error
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}")
        try:
            return cls(**arrays)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
