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
import os, sys, time
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

if __name__ == "__main__":
    task, folder = globals()[sys.argv[1]], Path(sys.argv[2])
    print(os.getpid(), sorted(run_tasks(task, folder, range(int(sys.argv[3])), workers=2)), flush=True)
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


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(program: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    parent = subprocess.Popen([*program, "sleep", str(out), "2"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(pids := [text for p in out.iterdir() if (text := p.read_text())]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all(map(runs, pids))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)
