"""Small runs as processes of their own: started, disturbed, looked at."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).with_name("small.py")
#: Longest time in seconds that a run, or the end of its processes, is waited for.
PATIENCE = 300


@dataclass(frozen=True)
class Place:
    """Folders of one run.

    Attributes:
        folder: for what the processes print, and all that is not said below.
        store: finished work.
        out: the report.
    """

    folder: Path
    store: Path
    out: Path

    @property
    def trained(self) -> list[int]:
        """Seeds whose training began, in order."""
        notes = self.folder / "notes"
        return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def new_place(folder: Path, *, store: Path | None = None, out: Path | None = None) -> Place:
    """A place in a new folder; nothing else is made yet."""
    folder.mkdir()
    return Place(folder, store or folder / "store", out or folder / "out")


@dataclass(frozen=True)
class Started:
    """A run at work; its processes are a group of their own.

    Attributes:
        head: the process that was started.
        printed: files of its standard output and standard error.
        began: when, on the monotonic clock.
    """

    head: "subprocess.Popen[bytes]"
    printed: tuple[Path, Path]
    began: float

    @property
    def processes(self) -> list[int]:
        """Processes of the group that run."""
        return [pid for pid, state in _states().items() if state == (self.head.pid, True)]

    @property
    def workers(self) -> list[int]:
        """Worker processes that run."""
        return [pid for pid in self.processes if b"spawn_main" in _command(pid)]

    def hears(self, number: signal.Signals) -> bool:
        """Whether the program has begun to catch a signal."""
        lines = Path(f"/proc/{self.head.pid}/status").read_text().splitlines()
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
        return bool(caught >> (number - 1) & 1)

    def send(self, number: signal.Signals, *, to_all: bool) -> None:
        """Sends a signal to all processes or to the head alone."""
        (os.killpg if to_all else os.kill)(self.head.pid, number)

    def wait_until(self, happened: Callable[[], object]) -> bool:
        """Waits for something; says whether it happened before the run ended."""
        while self.head.poll() is None:
            if happened():
                return True
            assert time.monotonic() < self.began + PATIENCE, "it takes too long"
            time.sleep(0.01)
        return False

    def ended(self) -> "Ended":
        """Waits for the end of the head, and then of every process of the group."""
        try:
            status = self.head.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.head.pid, signal.SIGABRT)
            self.head.wait(PATIENCE)
            raise AssertionError(f"it hangs: {self.printed[1].read_text()}") from None
        deadline = time.monotonic() + 60
        while self.processes:
            assert time.monotonic() < deadline, "processes outlive the run: " + " ".join(
                str(_command(pid)) for pid in self.processes
            )
            time.sleep(0.01)
        out, err = (path.read_text() for path in self.printed)
        return Ended(status, out, err, time.monotonic() - self.began)


@dataclass(frozen=True)
class Ended:
    """What is left of a run: exit status (minus the signal where it was killed), and what it printed."""

    status: int
    out: str
    err: str
    seconds: float


def start(place: Place, *options: str, workers: int = 1, diverging: str = "") -> Started:
    """Starts a run in the background."""
    printed = place.folder / "printed-out", place.folder / "printed-err"
    command = [sys.executable, str(PROGRAM), str(place.folder / "notes"), diverging, "--quiet", *options]
    command += ["--workers", str(workers), "--store", str(place.store), "--out", str(place.out)]
    with printed[0].open("wb") as out, printed[1].open("wb") as err:
        head = subprocess.Popen(
            command,
            cwd=place.folder,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # an abort says where it hangs
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Started(head, printed, time.monotonic())


def complete(place: Place, *options: str, workers: int = 1, diverging: str = "") -> Ended:
    """Runs to the end, which has to be a good one."""
    ended = start(place, *options, workers=workers, diverging=diverging).ended()
    assert ended.status == 0, ended
    return ended


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, by its path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def entries(store: Path) -> dict[str, list[int]]:
    """Entries of a store with the times at which their files were written; each has to be whole."""
    found = {}
    for entry in store.glob("*/[!.]*"):
        digests = json.loads((entry / "manifest.json").read_text())
        assert {p.name for p in entry.iterdir()} == {*digests, "manifest.json"}, f"{entry} is not whole"
        for name, digest in digests.items():
            assert hashlib.sha256((entry / name).read_bytes()).hexdigest() == digest, f"{entry} is not whole"
        times = [p.stat().st_mtime_ns for p in sorted(entry.iterdir())]
        found[entry.relative_to(store).as_posix()] = times
    return found


def _states() -> dict[int, tuple[int, bool]]:
    """Group of every process, and whether it runs still."""
    states = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        states[int(folder.name)] = int(fields[2]), fields[0] not in "ZX"
    return states


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return b""
