"""Folders of results: checked before the work, replaced whole after it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from population.errors import InputError, disk_is_full
from population.signals import stops_held

#: Begins the name of the folder in which results are made; one that is left was cut off.
_WORKSHOP = ".pie-"
#: One process at a time writes a folder. Named like a workshop, as it is also left by what was killed.
_LOCK = f"{_WORKSHOP}lock"


def check_folder(out: Path, *, load_own: Callable[[Path], object], what: str) -> None:
    """Checks that results may be written to a folder, before any work is done.

    Args:
        out: the folder; new, empty, or with earlier results of the same kind.
        load_own: raises InputError for a folder without such results.
        what: their name.

    Raises:
        InputError: if it cannot be written, or holds anything else.
    """
    try:
        existing = next(p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink())
        if not existing.is_dir():
            raise InputError(f"cannot write {out}: {existing} is not a folder")
        with tempfile.TemporaryDirectory(dir=existing, prefix=_WORKSHOP):
            pass
        holds_files = out.exists() and any(not p.name.startswith(_WORKSHOP) for p in out.iterdir())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    if holds_files:
        try:
            load_own(out)
        except InputError as error:
            raise InputError(
                f"{out} holds other files than {what}; choose a new or an empty --out"
            ) from error


def replace_parts(out: Path, names: Sequence[str], make: Callable[[Path], None]) -> None:
    """Makes results beside those that are there, then puts them in their place.

    A failure or an interruption leaves the folder as it was. What killed processes left in it is removed.

    Args:
        out: the folder; made if absent.
        names: files and folders that belong to the results; others stay.
        make: writes some or all of these names into a new folder.

    Raises:
        InputError: if the disk of the folder is full.
    """
    with _held(out):
        for left in out.glob(f"{_WORKSHOP}*/"):
            shutil.rmtree(left, ignore_errors=True)  # another process may be just removing it
        # Inside the folder, which may be the only one on its disk, or the only one that may be written.
        with tempfile.TemporaryDirectory(dir=out, prefix=_WORKSHOP) as workshop:
            fresh = Path(workshop) / "new"
            fresh.mkdir()
            make(fresh)
            with stops_held():
                for name in names:
                    _replace(fresh / name, out / name, Path(workshop) / f"old-{name}")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The folder, for this process alone; it is removed again if it was made here and nothing came of it."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK):
            try:
                yield
            finally:
                (out / _LOCK).unlink()
    except BaseException as error:
        with suppress(OSError):  # another process may be at work in it
            for folder in made:
                folder.rmdir()
        if disk_is_full(error):
            raise InputError(f"cannot write {out}: its disk is full; make room and run again") from error
        raise


def _replace(fresh: Path, place: Path, old: Path) -> None:
    if fresh.is_file():
        fresh.replace(place)
        return
    if place.exists():
        place.rename(old)
    if fresh.exists():
        fresh.rename(place)
