"""The executor without Slurm: programs of these names that read and write files stand in for it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission

from population import slurm
from population.errors import InputError
from population.job_arrays import Slurm, parse_queue
from population.slurm import TasksFailedError, check_slurm, run_on_slurm

ASKED = Slurm("short", 0, 90)


class Desk:
    """A queue that does what it is told, and the tasks that wait in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.out = root, root / "slurm", root / "out"
        self.out.mkdir()
        self._program(
            "sbatch", f'cat "$1" >> {root}/submitted; env >> {root}/submitted; echo Submitted batch job 7'
        )
        self._program("squeue", f"cat {root}/queue")
        self._program("srun", "exit 1")
        self.queue()

    def _program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def refuse(self) -> None:
        self._program(
            "sbatch", "echo sbatch: error: no such partition >&2; echo sbatch: error: so no >&2; exit 1"
        )

    def fall_silent(self) -> None:
        self._program("squeue", "echo squeue: error: nobody there >&2; exit 1")

    @property
    def array(self) -> Path:
        (found,) = [path for path in self.folder.iterdir() if path.is_dir()]
        return found

    def queue(self, *states: str) -> None:
        """Sets the states of the jobs of the only array."""
        lines = [f"7_{i}|{s}|{i}|pie-{self.array.name}\n" for i, s in enumerate(states) if s]
        if len(states) == 1:
            lines = [f"7|{states[0]}|N/A|pie-{self.array.name}\n"]
        (self.root / "queue").write_text("".join(["99|RUNNING|N/A|some|one's\n", *lines]))
        self._program("squeue", f"cat {self.root}/queue")

    def attempt(self, position: int) -> None:
        """Runs a job as submitit does."""
        alone = self.array / "7_submitted.pkl"  # one task makes no array
        file = alone if alone.exists() else self.array / f"7_{position}_submitted.pkl"
        DelayedSubmission.load(file).result()

    def outcome(self, position: int) -> Any:
        return json.loads((self.array / f"{position}.outcome").read_text())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Desk(tmp_path)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what happens while the executor rests, one act each time; the clock then goes on by 3 seconds."""
    now, acts = [0.0], list[Callable[[], object]]()

    def rest(seconds: float) -> None:
        assert 1 <= seconds <= 30
        now[0] += 3
        acts.pop(0)()  # an endless wait fails here

    monkeypatch.setattr(slurm.time, "sleep", rest)
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    return lambda *those: acts.extend(those)


def note(out: Path, index: int) -> None:
    if (out / "bad").exists():
        raise InputError(f"cannot do {index}\nas it is") if index == 5 else ValueError(f"task {index}")
    (out / str(index)).write_text("done")


def start(desk: Desk, *indices: int, prefix: str = "task") -> Iterator[int]:
    names = {index: f"{prefix} {index}" for index in indices}
    return run_on_slurm(note, desk.out, names, slurm=ASKED, threads=3, folder=desk.folder)


def test_each_task_is_a_job_and_is_reported_when_it_is_done(
    desk: Desk, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND", "of a job that submits")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    done = start(desk, 4, 5)
    script(
        lambda: desk.queue("PENDING", "PENDING"),
        lambda: (desk.queue("PENDING", "RUNNING"), desk.attempt(1)),
        lambda: None,
        lambda: (desk.queue("COMPLETING", "COMPLETED"), desk.attempt(0)),
        lambda: desk.queue("COMPLETED", "COMPLETED"),
    )
    assert next(done) == 5
    assert [p.name for p in desk.out.iterdir()] == ["5"]
    assert list(done) == [4]
    submitted = (desk.root / "submitted").read_text()
    for line in ("--partition=short", "--time=90", "--cpus-per-task=3", "--requeue", "--signal=USR2@90",
                 f"--job-name=pie-{desk.array.name}", "--array=0-1%2"):  # fmt: skip
        assert f"#SBATCH {line}\n" in submitted
    assert "\nexport OMP_NUM_THREADS=3\n" in submitted
    assert "gpus" not in submitted
    assert "\nSBATCH_ACCOUNT=mine\n" in submitted
    assert "SLURM_CPU_BIND" not in submitted
    assert os.environ["SLURM_CPU_BIND"] == "of a job that submits"
    assert not (desk.array / "shared.pkl").exists()
    assert desk.array.stat().st_mode & 0o777 == 0o700
    assert list(start(desk)) == [], "without tasks nothing is asked"


def test_failures_come_at_the_end_with_their_logs(desk: Desk, script: Callable[..., None]) -> None:
    done = start(desk, 3, 4, 5, 6, 7)

    def bad() -> None:
        (desk.out / "bad").touch()
        for position, kind in ((1, ValueError), (2, InputError)):
            with pytest.raises(kind):
                desk.attempt(position)
        (desk.out / "bad").unlink()
        desk.attempt(0)

    script(
        lambda: desk.queue("RUNNING", "RUNNING", "RUNNING", "RUNNING", "RUNNING"),
        bad,
        lambda: desk.queue("COMPLETED", "FAILED", "FAILED", "CANCELLED", ""),
        lambda: None,
        lambda: None,
    )
    assert next(done) == 3
    with pytest.raises(TasksFailedError) as caught:
        next(done)
    found = {i: (f.reason, f.mendable, f.log.name) for i, f in caught.value.failures.items()}
    assert found == {
        4: ("ValueError: task 4", False, "7_1_0_log.out"),
        5: ("cannot do 5 as it is", True, "7_2_0_log.out"),
        6: ("job 7_3 ended as CANCELLED without a word", True, "7_3_0_log.out"),
        7: ("job 7_4 ended without a word", True, "7_4_0_log.out"),
    }


def test_a_job_that_is_queued_again_has_not_failed(desk: Desk, script: Callable[..., None]) -> None:
    done = start(desk, 1, 2)

    def fail() -> None:
        (desk.out / "bad").touch()
        with pytest.raises(ValueError, match="task 1"):
            desk.attempt(0)
        (desk.out / "bad").unlink()

    script(
        lambda: desk.queue("RUNNING", "RUNNING"),
        lambda: (fail(), desk.queue("PENDING", "")),  # the second one is not known for a moment
        lambda: desk.queue("RUNNING", "RUNNING"),
        lambda: (desk.attempt(0), desk.attempt(1)),
    )
    assert list(done) == [1, 2]
    desk.attempt(0)  # an attempt that comes too late changes nothing
    assert desk.outcome(0) == {"failed": None}


def test_jobs_of_a_process_that_was_killed_are_found(desk: Desk, script: Callable[..., None]) -> None:
    script(lambda: desk.queue("RUNNING", "PENDING", "FAILED"))
    killed = start(desk, 1, 2, 3)
    with pytest.raises(IndexError):  # the script is over
        next(killed)
    first = (desk.root / "submitted").read_text().count("#SBATCH --array")
    script(lambda: (desk.attempt(0), desk.attempt(1)))
    assert sorted(start(desk, 2, 1)) == [1, 2]
    assert (desk.root / "submitted").read_text().count("#SBATCH --array") == first == 1
    # What has ended, or bears another name, is submitted.
    array = desk.array
    for indices, prefix in (((3,), "task"), ((1,), "other")):
        with pytest.raises(IndexError):
            next(start(desk, *indices, prefix=prefix))
    assert len([p for p in desk.folder.iterdir() if p.is_dir()]) == 3
    assert json.loads((array / "tasks.json").read_text()) == ["task 1", "task 2", "task 3"]


def test_what_a_killed_process_left_half_done_is_removed(desk: Desk, script: Callable[..., None]) -> None:
    (desk.folder / "0123456789ab").mkdir(parents=True)
    (desk.folder / "0123456789ab" / "shared.pkl").write_bytes(b"half")
    done = start(desk, 1)
    script(lambda: desk.queue("RUNNING"), lambda: desk.attempt(0))
    assert list(done) == [1]
    assert desk.array.name != "0123456789ab"


def test_a_silent_slurm_is_waited_for(
    desk: Desk, script: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    done = start(desk, 1)
    script(
        lambda: desk.queue("RUNNING"),
        desk.fall_silent,
        lambda: desk.attempt(0),
        lambda: desk.queue("COMPLETED"),
    )
    assert list(done) == [1]
    said = "Slurm does not answer: squeue: error: nobody there; jobs go on, and so does the wait for them"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_what_tasks_share_is_read_as_it_was_written(desk: Desk, script: Callable[..., None]) -> None:
    script(lambda: desk.queue("RUNNING", "RUNNING"))
    with pytest.raises(IndexError):
        next(start(desk, 1, 2))
    with (desk.array / "shared.pkl").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(RuntimeError, match=r"shared\.pkl is not as it was written"):
        desk.attempt(0)
    assert not desk.outcome(0)["mendable"]


def test_what_slurm_refuses_is_bad_input(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.refuse()
    with pytest.raises(InputError, match=r"(?s)Slurm refuses the jobs: .*no such partition.*so no"):
        next(start(desk, 1, 2))
    assert [path.name for path in desk.folder.iterdir()] == [".lock"]
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written(desk: Desk) -> None:
    desk.folder.write_text("a file")
    with pytest.raises(InputError, match=f"cannot submit jobs with files in {desk.folder}: File exists"):
        next(start(desk, 1))


def test_what_is_missing_is_said_before_any_work(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    check_slurm()
    desk.fall_silent()
    with pytest.raises(InputError, match="Slurm does not answer: squeue: error: nobody there"):
        check_slurm()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no sbatch on this machine; allowed here: local"):
        check_slurm()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"needs submitit: pip install 'pie-toolkit\[slurm\]'"):
        check_slurm()


def test_the_queue_by_hand() -> None:
    printed = "12_0|RUNNING|0|pie-a\n12_3|PENDING|3|pie-a\n13|CANCELLED|N/A|a|b\n14|COMPLETING|N/A|c\n"
    found = {number: (job.position, job.name, job.ended) for number, job in parse_queue(printed).items()}
    assert found == {
        "12_0": (0, "pie-a", False),
        "12_3": (3, "pie-a", False),
        "13": (0, "a|b", True),
        "14": (0, "c", False),
    }
