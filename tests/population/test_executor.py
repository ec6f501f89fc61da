import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from population.executor import run_tasks

# Run as a program: worker processes import the task by the path of its file.
PROGRAM = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from population.executor import run_tasks

def note(folder, index):
    (folder / f"{index}").write_text(str(os.getpid()))

def fail(folder, index):
    if index == 1:
        raise ValueError("task 1")
    note(folder, index)

def sleep(folder, index):
    note(folder, index)
    time.sleep(300)

def begin(folder, index):
    note(folder, index)
    while len(list(folder.iterdir())) < 2:  # both processes are at work then
        time.sleep(0.01)

def fail_in_parent(folder, index):
    begin(folder, index)
    if multiprocessing.parent_process():
        time.sleep(300)
    raise ValueError("task of the parent")

def fail_in_worker(folder, index):
    begin(folder, index)
    if multiprocessing.parent_process():
        raise ValueError("task of a worker")

class Stubborn(Exception):  # cannot be unpickled
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def fail_stubbornly(folder, index):
    begin(folder, index)
    if multiprocessing.parent_process():
        raise Stubborn("one", "two")

def die(folder, index):
    if multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)

class Large:  # kills the process that unpickles it
    def __init__(self):
        self.content = bytes(10**7)  # more than a pipe holds

    def __setstate__(self, state):
        os.kill(os.getpid(), signal.SIGKILL)

def rest(shared, index):
    time.sleep(0.1)

if __name__ == "__main__":
    task, folder = globals()[sys.argv[1]], Path(sys.argv[2])
    shared = Large() if task is rest else folder
    print(os.getpid(), sorted(run_tasks(task, shared, range(int(sys.argv[3])), workers=2)), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "out").mkdir()
    return [sys.executable, str(tmp_path / "program.py")]


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    done = run_tasks(lambda shared, index: seen.append((shared, index)), "shared", [3, 1, 2], workers=1)
    assert seen == []
    assert next(done) == 3
    assert seen == [("shared", 3)]
    assert list(done) == [1, 2]
    assert list(run_tasks(lambda shared, index: None, None, [], workers=4)) == []


def test_this_process_and_another_run_every_task_once(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "note", str(tmp_path / "out"), "5"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    parent, indices = done.stdout.split(maxsplit=1)
    assert indices == "[0, 1, 2, 3, 4]\n"
    pids = {p.read_text() for p in (tmp_path / "out").iterdir()}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list("01234")
    assert len(pids) == 2
    assert parent in pids


def test_the_error_of_a_task_is_the_callers(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "fail", str(tmp_path / "out"), "3"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: task 1"


def test_the_traceback_of_a_workers_task_is_kept(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "fail_in_worker", str(tmp_path / "out"), "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert 'in fail_in_worker\n    raise ValueError("task of a worker")' in done.stderr


def test_an_error_that_cannot_be_sent_is_told_in_words(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "fail_stubbornly", str(tmp_path / "out"), "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "\nRuntimeError: Stubborn: one and two\n" in done.stderr


def test_a_failure_ends_the_others_at_once(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "fail_in_parent", str(tmp_path / "out"), "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.splitlines()[-1] == "ValueError: task of the parent"
    assert not any(runs(p.read_text()) for p in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("when", ["die", "rest"], ids=["at work", "before it has its data"])
def test_a_killed_worker_is_an_error(program: list[str], tmp_path: Path, when: str) -> None:
    done = subprocess.run(
        [*program, when, str(tmp_path / "out"), "1000"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.splitlines()[-1] == (
        "population.errors.InputError: a worker process was killed, perhaps for lack of memory; the same"
        " command goes on from here, and fewer --workers need less memory"
    )
    assert done.stdout == ""


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(program: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], list[str]]:
    """The program with both processes at work, and their ids."""
    out = folder / "out"
    with (folder / "err").open("wb") as err:
        parent = subprocess.Popen([*program, "sleep", str(out), "2"], stderr=err)
    deadline = time.monotonic() + 120
    while len(pids := [text for p in out.iterdir() if (text := p.read_text())]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all(map(runs, pids))
    return parent, pids


@needs_proc
def test_workers_end_with_a_killed_parent(program: list[str], tmp_path: Path) -> None:
    parent, pids = started(program, tmp_path)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 120
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)


@needs_proc
def test_only_the_parent_hears_an_interruption(program: list[str], tmp_path: Path) -> None:
    parent, pids = started(program, tmp_path)
    (worker,) = set(pids) - {str(parent.pid)}
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(int(worker), number)
    time.sleep(0.3)
    assert runs(worker)
    os.kill(parent.pid, signal.SIGINT)
    parent.wait(60)
    err = (tmp_path / "err").read_text()
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1
    assert not runs(worker)
