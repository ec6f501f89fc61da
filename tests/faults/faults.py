"""What may happen to a run, and what has to be true afterwards. Every round has its own store."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from runs import Ended, Place, complete, contents, entries, new_place, start

GOES_ON = "the same command goes on from here"
STOPPED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PAGE = 4096
#: Of entries of a store.
KINDS = (
    "members", "predictions", "compressed", "scores", "baselines", "cka", "similarity", "maps", "dense-map",
)  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Attributes:
        place: where it was.
        report: every file of its report.
        work: every file of its store.
        seconds: how long it took beside another one.
    """

    place: Place
    report: Mapping[str, bytes]
    work: Mapping[str, bytes]
    seconds: float


Round = Callable[[Undisturbed, Path, np.random.Generator], None]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        title: what happens.
        checked: what is true after every round.
        rounds: each in a folder of its own.
        needs_mounts: whether it needs small file systems, which only root may mount.
    """

    title: str
    checked: str
    rounds: tuple[Round, ...]
    needs_mounts: bool = False


def undisturbed(folder: Path) -> Undisturbed:
    """Two runs side by side, one of them with two processes; they have to be equal."""
    folder.mkdir()
    places = [new_place(folder / name) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda place, workers: complete(place, workers=workers), places, (1, 2)))
    reports, work = ([contents(getattr(p, part)) for p in places] for part in ("out", "store"))
    assert reports[0] == reports[1]
    assert work[0] == work[1]
    assert {path.partition("/")[0] for path in entries(places[0].store)} == set(KINDS)
    return Undisturbed(places[0], reports[0], work[0], max(e.seconds for e in ended))


# --- what is the same for all faults


def check_going_on(truth: Undisturbed, place: Place, *, workers: int) -> None:
    """Runs again, to the end: nothing that was finished is made again, and nothing differs."""
    before = entries(place.store)
    complete(place, workers=workers)
    check_equal(truth, place)
    after = entries(place.store)
    assert {name: after[name] for name in before} == before, "finished work was made again"


def check_equal(truth: Undisturbed, place: Place) -> None:
    """The report and the store are those of the undisturbed run, byte for byte, and hold nothing else."""
    for found, expected in ((contents(place.out), truth.report), (contents(place.store), truth.work)):
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        different = [name for name in found if found[name] != expected[name]]
        assert not different, different


def check_message(ended: Ended, status: int, message: str) -> None:
    """It printed one line, and ended with this status."""
    assert (ended.status, ended.out, ended.err) == (status, "", f"{message}\n"), ended


def signalled(
    truth: Undisturbed,
    folder: Path,
    rng: np.random.Generator,
    number: signal.Signals,
    *,
    workers: int,
    to_all: bool,
) -> tuple[Place, Ended]:
    """Sends a signal at a random point of a run; of another one if that ends before."""
    folder.mkdir()
    seconds = truth.seconds
    for attempt in range(10):
        place = new_place(folder / str(attempt))
        run = start(place, workers=workers)
        # Nothing can be caught in the first moments, in which Python starts.
        run.wait_until(lambda run=run: number == signal.SIGKILL or run.hears(signal.SIGTERM))
        now = time.monotonic()
        point = rng.uniform(now, max(now, run.began + seconds))
        if run.wait_until(lambda point=point: time.monotonic() > point):
            run.send(number, to_all=to_all)
        ended = run.ended()
        if not ended.out:
            return place, ended
        seconds = min(seconds, ended.seconds)
    raise AssertionError("every run ended before its point")


# --- killed and stopped


def killed(truth: Undisturbed, folder: Path, rng: np.random.Generator, *, workers: int, to_all: bool) -> None:
    place, ended = signalled(truth, folder, rng, signal.SIGKILL, workers=workers, to_all=to_all)
    assert ended.status == -signal.SIGKILL, ended
    check_going_on(truth, place, workers=workers)


def worker_killed(truth: Undisturbed, folder: Path, rng: np.random.Generator) -> None:
    """Killed early, as long as tasks wait; the others may do them all before it is missed."""
    place = new_place(folder)
    run = start(place, workers=2)
    assert run.wait_until(lambda: run.workers)
    time.sleep(rng.uniform(0, 0.3 * truth.seconds))
    for pid in run.workers:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    ended = run.ended()
    if ended.status == 0:
        assert ended.err == "", ended
        check_equal(truth, place)
        return
    check_message(
        ended,
        2,
        f"pie: a worker process was killed, perhaps for lack of memory; {GOES_ON}, and fewer --workers need"
        " less memory",
    )
    assert not place.out.exists()
    check_going_on(truth, place, workers=1)


def stopped(
    truth: Undisturbed,
    folder: Path,
    rng: np.random.Generator,
    *,
    number: signal.Signals,
    workers: int,
    to_all: bool,
) -> None:
    place, ended = signalled(truth, folder, rng, number, workers=workers, to_all=to_all)
    check_message(ended, 128 + number, f"pie: {STOPPED[number]}; {GOES_ON}")
    # It may have been in place just before.
    assert not place.out.exists() or contents(place.out) == truth.report
    check_going_on(truth, place, workers=workers)


# --- full disks


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)  # noqa: S607


def make_room(disk: Path) -> None:
    mount("-o", "remount,size=64m", str(disk))


def reason_not_to_mount(folder: Path) -> str | None:
    """Why no small file systems can be mounted here, or None."""
    if os.geteuid() != 0:
        return "needs root, to mount small file systems"
    try:
        with small_disk(folder, PAGE):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"cannot mount small file systems here ({error})"


def pages(files: Mapping[str, bytes]) -> int:
    """Size of files on a tmpfs, bytes."""
    return sum(math.ceil(len(content) / PAGE) for content in files.values()) * PAGE


def store_full(truth: Undisturbed, folder: Path, rng: np.random.Generator, *, workers: int) -> None:
    folder.mkdir()
    with small_disk(folder / "disk", int(rng.uniform(0.02, 0.98) * pages(truth.work))) as disk:
        place = new_place(folder / "run", store=disk / "store")
        ended = start(place, workers=workers).ended()
        check_message(ended, 2, f"pie: the disk of the store {place.store} is full; make room, and {GOES_ON}")
        assert not place.out.exists()
        if workers == 1:
            assert not list(place.store.rglob("*.partial"))
        make_room(disk)
        check_going_on(truth, place, workers=workers)


def out_full(truth: Undisturbed, folder: Path, rng: np.random.Generator, *, older: bool) -> None:
    """An older report, where there is one, stays as it was."""
    folder.mkdir()
    before = dict(truth.report) | {"index.html": b"an older page"} if older else {}
    room = int(pages(before) + rng.uniform(0.02, 0.98) * pages(truth.report))
    with small_disk(folder / "disk", room) as disk:
        place = new_place(folder / "run", out=disk / "out")
        shutil.copytree(truth.place.store, place.store)
        for name, content in before.items():
            (place.out / name).parent.mkdir(parents=True, exist_ok=True)
            (place.out / name).write_bytes(content)
        ended = start(place).ended()
        check_message(ended, 2, f"pie: cannot write {place.out}: its disk is full; make room and run again")
        assert contents(disk) == {f"out/{name}": content for name, content in before.items()}
        assert place.out.exists() is older
        make_room(disk)
        check_going_on(truth, place, workers=1)


# --- damaged files


def truncate(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, rng.integers(path.stat().st_size))


def flip_a_bit(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def damaged(
    truth: Undisturbed,
    folder: Path,
    rng: np.random.Generator,
    *,
    kind: str,
    damage: Callable[[Path, np.random.Generator], None],
) -> None:
    place = new_place(folder)
    shutil.copytree(truth.place.store, place.store)
    files = sorted((place.store / kind).glob("[!.]*/*"))
    chosen = files[rng.integers(len(files))]
    damage(chosen, rng)
    if kind == "members":  # opened only by what is made from it, and its predictions have the same key
        shutil.rmtree(place.store / "predictions" / chosen.parent.name)
    ended = complete(place)
    # A damaged list of checksums can make it seem that a file is.
    named = r"[^/]+" if chosen.name == "manifest.json" else re.escape(chosen.name)
    line = rf"stored file {re.escape(str(chosen.parent))}/{named} is damaged; making it again\n"
    assert re.fullmatch(line, ended.err), (chosen, ended)
    check_equal(truth, place)


# --- two at once


def two_at_once(
    truth: Undisturbed, folder: Path, rng: np.random.Generator, *, workers: int, same_out: bool
) -> None:
    folder.mkdir()
    first = new_place(folder / "first")
    second = new_place(folder / "second", store=first.store, out=first.out if same_out else None)
    runs = [start(first, workers=workers)]
    time.sleep(rng.uniform(0, 1))
    runs.append(start(second, workers=workers))
    for run in runs:
        ended = run.ended()
        assert (ended.status, ended.err) == (0, ""), ended
    for place in (first, second):
        check_equal(truth, place)
    assert sorted(first.trained + second.trained) == [0, 1, 2]


# --- diverging members


def diverged(truth: Undisturbed, folder: Path, rng: np.random.Generator, *, workers: int) -> None:
    place = new_place(folder)
    seed = int(rng.integers(3))
    ended = start(place, workers=workers, diverging=str(seed)).ended()
    found = re.fullmatch(
        rf"pie: member {seed} \(seed {seed}\) diverged: its loss is (nan|inf) in epoch 1;"
        r" --exclude-diverged leaves such members out\n",
        ended.err,
    )
    assert (ended.status, ended.out, bool(found)) == (2, "", True), ended
    assert not place.out.exists()
    before = entries(place.store)
    ended = complete(place, "--exclude-diverged", workers=workers)
    assert ended.err == f"1 of 3 members diverged (seed {seed}) and are left out\n"
    after = entries(place.store)
    assert {name: after[name] for name in before} == before
    assert place.trained.count(seed) == 1
    others = [s for s in range(3) if s != seed]
    document: dict[str, Any] = json.loads((place.out / "report.json").read_text())
    assert document["spec"]["seeds"] == others
    assert document["spec"]["excluded_seeds"] == [seed]
    assert document["dense"]["k"] == document["compressed"][0]["k"] == 2
    shared = contents(place.store).items() & truth.work.items()
    whole = ("predictions.npz", "model.safetensors", "plan.safetensors")
    counts = [sum(name.endswith(file) for name, _ in shared) for file in whole]
    assert counts == [6, 2, 4], "the others are those of the undisturbed run"


def too_few_remain(truth: Undisturbed, folder: Path, rng: np.random.Generator) -> None:
    place = new_place(folder)
    seeds = sorted(rng.permutation(3)[:2].tolist())
    named = ", ".join(map(str, seeds))
    ended = start(place, "--exclude-diverged", diverging=",".join(map(str, seeds))).ended()
    check_message(
        ended,
        2,
        f"pie: 2 of 3 members diverged (seeds {named}); a population needs at least 2 others",
    )
    assert not place.out.exists()


# --- all of them

BOTH = (False, True)

FAULTS = {
    "killed": Fault(
        "`kill -9`, of all processes or the first alone, one or two workers",
        "run again: finished work is kept, every file of report and store equal; no process stays",
        5 * tuple(partial(killed, workers=w, to_all=a) for w in (1, 2) for a in BOTH),
    ),
    "worker-killed": Fault(
        "`kill -9` of a worker",
        "exit 2, one line, and run again: finished work is kept, all equal; or all equal without it",
        4 * (worker_killed,),
    ),
    "stopped": Fault(
        "Ctrl-C or SIGTERM, to all processes or the first alone, one or two workers",
        "exit 130 or 143, one line, no process stays, no report; run again: finished work is kept, all equal",
        tuple(
            partial(stopped, number=n, workers=w, to_all=a) for n in STOPPED for w in (1, 2) for a in BOTH
        ),
    ),
    "store-full": Fault(
        "the store's disk is full",
        "exit 2, one line, no half entry, no report; with room: finished work is kept, all equal",
        2 * tuple(partial(store_full, workers=w) for w in (1, 2)),
        needs_mounts=True,
    ),
    "out-full": Fault(
        "the report's disk is full",
        "exit 2, one line, no report or the older one untouched; with room: all equal",
        2 * tuple(partial(out_full, older=o) for o in BOTH),
        needs_mounts=True,
    ),
    "damaged": Fault(
        "a stored file cut short, or one bit of it flipped: " + ", ".join(KINDS),
        "named in one line; it and everything else equal",
        tuple(partial(damaged, kind=k, damage=d) for k in KINDS for d in (truncate, flip_a_bit)),
    ),
    "two-at-once": Fault(
        "two runs at once on one store, also into one folder",
        "both end, all equal, no member is trained twice",
        tuple(partial(two_at_once, workers=w, same_out=s) for w, s in ((1, False), (2, False), (1, True))),
    ),
    "diverged": Fault(
        "a member's loss becomes NaN",
        "exit 2, one line; left out on request, and not trained again; too few others: exit 2, one line",
        (partial(diverged, workers=1), partial(diverged, workers=2), too_few_remain),
    ),
}  # fmt: skip
