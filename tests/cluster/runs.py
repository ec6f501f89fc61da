"""Runs on a real Slurm and what may happen to them; ``make test-cluster``. No part of a plain test run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, why_not

PROGRAM = Path(__file__).with_name("small.py")
#: Training steps of a member.
STEPS = 28
#: Longest time in seconds that a run, or something in it, is waited for.
PATIENCE = 600
#: Set when nobody waits for the outcome any longer.
STOPPED = threading.Event()


@dataclass(frozen=True)
class Run:
    """Where a run of ``small.py`` keeps things; its commands share a store."""

    cluster: Cluster
    folder: Path
    pause: float

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self, command: str, *options: str) -> "subprocess.Popen[str]":
        (self.folder / "notes").mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [
                *(sys.executable, str(PROGRAM), str(self.folder / "notes"), str(self.pause), command),
                *("--store", str(self.store), *options),
            ],
            cwd=self.folder,
            # More threads than members are to have.
            env={**self.cluster.environment, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def steps(self, seed: int) -> list[tuple[int, int]]:
        """Every step of a member's training, and its process."""
        notes = self.folder / "notes" / str(seed)
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [(int(step), int(process)) for step, process in map(str.split, lines)]

    def attempts(self, seed: int) -> list[list[int]]:
        """Steps of a member's training, by process in order."""
        steps = self.steps(seed)
        return [[s for s, p in steps if p == process] for process in dict.fromkeys(p for _, p in steps)]

    def wait_for_step(self, seed: int, step: int) -> int:
        """Waits until a member has trained for some steps; returns its process."""
        self.wait(lambda: len(self.steps(seed)) >= step)
        return self.steps(seed)[-1][1]

    def wait(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if STOPPED.is_set() or time.monotonic() > deadline:
                logs = (f"{path}:\n{path.read_text()[-3000:]}" for path in self.store.glob("slurm/*/*.out"))
                raise AssertionError("\n".join(["it does not happen", self.cluster.ask("squeue"), *logs]))
            time.sleep(0.2)

    @property
    def arrays(self) -> list[list[str]]:
        """Names of the tasks of every job array, the first one first."""
        found = sorted(self.store.glob("slurm/*/tasks.json"), key=lambda path: path.stat().st_mtime)
        return [json.loads(path.read_text()) for path in found]

    def job(self, position: int) -> str:
        """Id of a job of the only array."""
        (array,) = self.store.glob("slurm/*/tasks.json")
        name = f"--name=pie-{array.parent.name}"
        printed = self.cluster.ask("squeue", "--array", "--noheader", name, "--format=%K %i")
        return dict(line.split() for line in printed.splitlines())[str(position)]

    def entries(self) -> dict[str, bytes]:
        """Files of finished work; locks and what belongs to jobs are none."""
        files = self.store.glob("[!s]*/[!.]*/*")
        return {path.relative_to(self.store).as_posix(): path.read_bytes() for path in files}


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def ended(process: "subprocess.Popen[str]") -> Ended:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            out, err = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            if STOPPED.is_set() or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"it does not end: {process.communicate()}") from None
            continue
        return Ended(process.returncode, out, err)


def on_slurm(partition: str = "main", time: str = "30") -> tuple[str, ...]:
    return "--executor", "slurm", "--partition", partition, "--time", time


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what happens, each to a run of its own


def local(run: Run) -> dict[str, bytes]:
    """Members and a report made by processes of this machine."""
    for command in (("train", "--members", "6"), ("report", *REPORT)):
        done = ended(run.start(*command, "--workers", "1"))
        assert done.status == 0, done
    return {**run.entries(), **contents(run.folder / "out")}


REPORT = ("--members", "2", "--merge", "0.5", "--out", "out")


def everything(run: Run) -> None:
    """One member is left alone, one fails, the others are killed, cancelled, pre-empted and queued again."""
    alone, failing, killed, cancelled, preempted, requeued = range(6)
    command = "train", "--members", "6", *on_slurm()
    (run.folder / "notes").mkdir(parents=True)
    (run.folder / "notes" / f"fail-{failing}").touch()
    head = run.start(*command)
    os.kill(run.wait_for_step(killed, 3), signal.SIGKILL)
    run.wait_for_step(cancelled, 3)
    run.cluster.ask("scancel", run.job(cancelled))
    run.wait_for_step(preempted, 3)
    run.cluster.ask("scancel", "--signal=USR2", run.job(preempted))
    run.wait_for_step(requeued, 3)
    run.cluster.ask("scontrol", "requeue", run.job(requeued))
    done = ended(head)
    assert (done.status, done.out) == (1, ""), done
    (array,) = {path.parent for path in run.store.glob("slurm/*/tasks.json")}
    number = next(array.glob("*_0_0_log.out")).name.split("_")[0]
    reasons = [
        "RuntimeError: told to fail",
        f"job {number}_{killed} ended as FAILED without a word",
        f"job {number}_{cancelled} ended as CANCELLED without a word",
    ]
    failed = failing, killed, cancelled
    logs = [array / f"{number}_{seed}_0_log.out" for seed in failed]
    summary = "pie: failed: MembersFailedError: 3 of 6 members failed; the same command runs these again"
    assert done.err.splitlines() == [
        *(
            f"member {s} (seed {s}) failed: {r}; log: {log}"
            for s, r, log in zip(failed, reasons, logs, strict=True)
        ),
        f"{summary} (--debug shows where)",
    ]
    assert "RuntimeError: told to fail\n" in logs[0].read_text()
    first, second = run.attempts(preempted)
    assert first + second == list(range(1, STEPS + 1)), "it did not go on where it was"
    assert first
    assert second
    first, second = run.attempts(requeued)
    assert (first[0], second) == (1, list(range(1, STEPS + 1)))
    assert run.attempts(alone) == [list(range(1, STEPS + 1))]

    before = run.entries()
    assert {name.split("/")[0] for name in before} == {"members", "predictions"}
    assert len(list(run.store.glob("members/[!.]*"))) == 3
    (run.folder / "notes" / f"fail-{failing}").unlink()
    done = ended(run.start(*command))
    assert (done.status, done.err) == (0, ""), done
    again = run.arrays
    assert [len(names) for names in again] == [6, 3]
    assert again[1] == [again[0][seed] for seed in failed]
    assert run.attempts(alone) == [list(range(1, STEPS + 1))]
    assert before.items() <= run.entries().items()

    done = ended(run.start(*command))
    assert done.status == 0, done
    assert len(run.arrays) == 2, "jobs were submitted for finished members"


def time_limit(run: Run) -> None:
    """Members take longer than their jobs may."""
    done = ended(run.start("train", "--members", "2", *on_slurm(time="2")))
    assert (done.status, done.err) == (0, ""), done
    for seed in range(2):
        attempts = run.attempts(seed)
        assert len(attempts) > 1, "the limit did not come"
        assert [step for attempt in attempts for step in attempt] == list(range(1, STEPS + 1)), (
            "it did not go on where it was"
        )


def killed_head(run: Run) -> None:
    """The first process is killed; the same command waits for its jobs, and so does another one beside it."""
    head = run.start("report", *REPORT, *on_slurm())
    for seed in range(2):
        run.wait_for_step(seed, 3)
    os.killpg(head.pid, signal.SIGKILL)
    ended(head)
    beside = run.start("train", "--members", "2", *on_slurm())
    done = ended(run.start("report", *REPORT, *on_slurm()))
    assert (done.status, done.err) == (0, ""), done
    done = ended(beside)
    assert (done.status, done.err) == (0, ""), done
    # Another command has jobs of its own; they find the members at work and train nothing.
    assert sorted(map(len, run.arrays)) == [2, 2]
    for seed in range(2):
        assert run.attempts(seed) == [list(range(1, STEPS + 1))], "a member was trained twice"


def dead_node(run: Run) -> None:
    """Slurm loses a node and runs its jobs again, while what ran there is at work still."""
    head = run.start("train", "--members", "2", *on_slurm("frail"))
    orphans = [run.wait_for_step(seed, 3) for seed in range(2)]
    jobs = [run.job(seed) for seed in range(2)]
    run.cluster.kill_node("frail")
    run.wait(
        lambda: (
            run.cluster.ask("squeue", "--noheader", "--partition=frail", "--states=R", "--format=%A") == ""
        )
    )
    run.cluster.start_node("frail")
    logs = [next(run.store.glob(f"slurm/*/{job}_0_log.out")) for job in jobs]
    # Submitit says so when an attempt begins.
    run.wait(lambda: all(log.read_text().count("Starting with") > 1 for log in logs))
    assert all(Path(f"/proc/{process}").exists() for process in orphans), "too late: it is no orphan any more"
    done = ended(head)
    assert (done.status, done.err) == (0, ""), done
    for seed in range(2):
        attempts = run.attempts(seed)
        assert attempts == [list(range(1, STEPS + 1))], "a member was trained twice"


SCENARIOS: Mapping[str, tuple[Callable[[Run], object], float]] = {
    "local": (local, 0.0),
    "everything": (everything, 0.4),
    "time limit": (time_limit, 4.0),
    "killed head": (killed_head, 2.0),
    "dead node": (dead_node, 3.0),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.fail(f"no Slurm can be started: {reason}")
    with Cluster() as started:
        yield started


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[object]"]]:
    """All of them at once, as they rest most of the time; with their stores."""
    root = tmp_path_factory.mktemp("cluster")
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        found: dict[str, Future[object]] = {}
        for name, (act, pause) in SCENARIOS.items():
            run = Run(cluster, root / name.replace(" ", "-"), pause)
            run.folder.mkdir()
            found[name] = pool.submit(lambda act=act, run=run: (act(run), run))
        try:
            yield found
        finally:
            STOPPED.set()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "local"])
def test_members_equal_those_of_local_processes(runs: dict[str, "Future[object]"], name: str) -> None:
    _, run = runs[name].result()
    truth, _ = runs["local"].result()
    found = run.entries()
    assert sum(file.endswith("model.safetensors") for file in found) == (6 if name == "everything" else 2)
    if (run.folder / "out").exists():
        found |= contents(run.folder / "out")
        assert "index.html" in found
    different = [file for file in found if found[file] != truth[file]]
    assert not different


def test_what_slurm_refuses_is_told_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, 0.0)
    done = ended(run.start("train", "--members", "2", *on_slurm("nowhere")))
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"pie: Slurm refuses the jobs: .*invalid partition specified.*\n", done.err, re.I), (
        done
    )
    assert not list(run.store.glob("slurm/*/tasks.json"))
