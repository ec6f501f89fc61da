"""Where finished work is kept: the only module that knows the store's paths."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from population.errors import InputError, disk_is_full

_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


class Store:
    """Folders of results under the key of all that they depend on.

    An entry appears whole or not at all: it is written beside its place and renamed. Every file's
    checksum is kept and verified whenever the entry is opened; a damaged entry is named in a
    warning and made again. A lock per entry lets several runs share a store.

    Attributes:
        root: the store's folder; made when first needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def once(self, kind: str, key: str, produce: Callable[[Path], None]) -> Path:
        """Returns the folder of an entry, after making it where it is absent or damaged.

        Args:
            kind: what it is, for example ``"members"``; a folder of the store.
            key: from ``population.spec.key`` over everything that the entry depends on.
            produce: writes the entry's files into the empty folder it is given.

        Returns:
            The folder, to be read only.

        Raises:
            InputError: if the store cannot be written, or its disk is full.
        """
        entry = self.root / kind / key
        partial = self.root / kind / f".{key}.partial"
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(entry.parent / f".{key}.lock")
            lock.acquire()
        except OSError as error:
            if disk_is_full(error):
                raise self._full() from error
            raise InputError(f"cannot write the store {self.root}: {error.strerror}") from error
        try:
            if entry.exists():
                damaged = _damaged_file(entry)
                if damaged is None:
                    return entry
                _log.warning("stored file %s is damaged; making it again", entry / damaged)
                shutil.rmtree(entry)
            if partial.exists():  # left by a run that was killed
                shutil.rmtree(partial)
            try:
                partial.mkdir()
                produce(partial)
                _write_manifest(partial)
                partial.rename(entry)
                shutil.rmtree(self.unfinished(kind, key), ignore_errors=True)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        except Exception as error:
            if isinstance(error, InputError) or not disk_is_full(error):
                raise
            raise self._full() from error
        finally:
            lock.release()
        return entry

    def _full(self) -> InputError:
        return InputError(
            f"the disk of the store {self.root} is full; make room, and the same command goes on from here"
        )

    def unfinished(self, kind: str, key: str) -> Path:
        """Folder beside an entry in which its producer may keep what a later attempt goes on from.

        Nothing checks what is in it, and it is removed when the entry is there. Only a producer, which holds
        the entry's lock, may use it.
        """
        return self.root / kind / f".{key}.unfinished"

    @property
    def jobs(self) -> Path:
        """Folder of the files and logs of jobs that work for the store elsewhere."""
        return self.root / "slurm"

    def has(self, kind: str, key: str) -> bool:
        """Whether there is an entry, which may be damaged."""
        return (self.root / kind / key).is_dir()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(folder: Path) -> None:
    digests = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(digests, indent=1))
    for path in folder.iterdir():  # on the disk before the rename makes the entry count
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _damaged_file(folder: Path) -> str | None:
    """Name of the first file that is not as it was written, or None."""
    try:
        digests = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError):
        return _MANIFEST
    if not isinstance(digests, dict):
        return _MANIFEST
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            return str(name)
    unlisted = {p.name for p in folder.iterdir()} - digests.keys() - {_MANIFEST}
    return min(unlisted, default=None)
