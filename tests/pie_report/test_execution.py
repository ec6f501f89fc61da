import contextlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress

from pie_report import execution, pipeline, trained
from pie_report.execution import Execution
from pie_report.pipeline import MembersFailedError, finish_members, open_population
from population import slurm
from population.errors import InputError
from population.job_arrays import Slurm
from population.slurm import Failure, TasksFailedError
from population.spec import LoadedSpec, PopulationSpec, weights_key
from population.store import Store
from ssl_models.training import DivergedError, train


@pytest.mark.parametrize(
    ("time", "minutes"),
    [(None, 240), ("1", 1), ("90", 90), ("00:01:00", 1), ("0:00:01", 1), ("1:30:01", 91), ("48:00:00", 2880)],
)
def test_time_limits_in_minutes(monkeypatch: pytest.MonkeyPatch, time: str | None, minutes: int) -> None:
    monkeypatch.setattr(slurm, "check_slurm", lambda: None)
    assert Execution("slurm", partition="p", gpus=1, time=time).slurm() == Slurm("p", 1, minutes)


@pytest.mark.parametrize("time", ["0", "0:00:00", "-5", "1.5", "1:60:00", "1:00", "x", "", "1-00:00:00"])
def test_bad_time_limits(time: str) -> None:
    with pytest.raises(InputError, match="--time must be minutes or HH:MM:SS"):
        Execution("slurm", time=time)


def test_the_device_is_that_of_the_jobs() -> None:
    auto = PopulationSpec()
    assert Execution().placed(auto) is auto
    assert Execution(gpus=2).placed(auto).device == "cuda"
    assert Execution(gpus=0).placed(auto).device == "cpu"
    assert Execution("slurm", gpus=4).placed(auto).device == "cuda"
    assert [Execution(gpus=gpus).devices for gpus in (None, 0, 1, 3)] == [1, 1, 1, 3]
    assert Execution("slurm").placed(auto).device == "cpu"
    assert Execution("slurm", gpus=1).placed(auto).device == "cuda"
    assert Execution("slurm", gpus=1).placed(PopulationSpec(device="cuda")).device == "cuda"
    with pytest.raises(InputError, match="--device cuda does not go with --gpus 0"):
        Execution("slurm").placed(PopulationSpec(device="cuda"))
    with pytest.raises(InputError, match="--device cpu does not go with --gpus 1"):
        Execution("slurm", gpus=1).placed(PopulationSpec(device="cpu"))


def test_workers_are_as_many_as_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.os, "sched_getaffinity", lambda process: {0, 1, 5})
    assert [Execution().processes(device) for device in ("cpu", "cuda")] == [3, 1]
    assert Execution(workers=7).processes("cuda") == 7
    assert Execution().slurm() is None


def test_members_of_several_devices_are_trained_together_and_have_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = PopulationSpec(model="supervised_wrn16_2", members=2, width=2, epochs=1)
    seen = []

    def together(*arguments: Any, devices: int, **rest: Any) -> list[float]:
        seen.append(devices)
        return train(*arguments, **rest)

    monkeypatch.setattr(trained, "train_on_devices", together)
    one, two = (
        open_population(named, store=Store(tmp_path), data_dir=None, download=False, devices=devices)
        for devices in (1, 2)
    )
    assert weights_key(one.spec(0)) != weights_key(two.spec(0))
    assert two.source.describe()["training"]["devices"] == 2
    with two.fixed_threads():
        weights, of_two = (population.dense(0).state_dict() for population in (one, two))
    assert seen == [2]
    assert all(torch.equal(weights[name], tensor) for name, tensor in of_two.items())


class Members:
    """Four members, of which the first is finished."""

    k, seeds, member = 4, [5, 6, 7, 8], SimpleNamespace(threads=1)
    store = SimpleNamespace(jobs=Path("jobs"), has=lambda kind, name: False)

    def is_finished(self, index: int, conditions: object) -> bool:
        return index == 0

    def spec(self, index: int) -> LoadedSpec:
        return LoadedSpec("net", "code", (f"member {index}",), "data", 0, "cpu", 1)


def finish(members: Any, jobs: Slurm, *, exclude_diverged: bool) -> Any:
    progress = Progress(disable=True)
    return finish_members(
        members, (), progress, scores=False, workers=1, slurm=jobs, exclude_diverged=exclude_diverged
    )


@pytest.mark.parametrize(
    ("failures", "kind", "lines"),
    [
        (
            {1: Failure("job 7_0 ended as CANCELLED without a word", True, Path("a.out"))},
            InputError,
            ["member 1 (seed 6) failed: job 7_0 ended as CANCELLED without a word; log: a.out"],
        ),
        (
            {
                2: Failure("ValueError: no", False, Path("b.out")),
                3: Failure("member 3 (seed 8) diverged: its loss is nan", True, Path("c.out")),
            },
            MembersFailedError,
            [
                "member 2 (seed 7) failed: ValueError: no; log: b.out",
                "member 3 (seed 8) diverged: its loss is nan; log: c.out",
            ],
        ),
    ],
)
def test_members_that_failed_are_named_with_their_logs(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: dict[int, Failure],
    kind: type[Exception],
    lines: list[str],
) -> None:
    asked: dict[str, Any] = {}

    def run(task: object, shared: object, names: dict[int, str], **rest: Any) -> Any:
        asked.update(rest, names=names)
        yield from names.keys() - failures.keys()
        raise TasksFailedError(failures)

    monkeypatch.setattr(pipeline, "run_on_slurm", run)
    jobs = Slurm(None, 0, 5)
    with caplog.at_level(logging.WARNING), pytest.raises(kind) as caught:
        finish(Members(), jobs, exclude_diverged=False)
    assert str(caught.value) == f"{len(failures)} of 4 members failed; the same command runs these again"
    assert [record.getMessage() for record in caplog.records] == lines
    assert (asked["slurm"], asked["threads"], asked["folder"]) == (jobs, 1, Path("jobs"))
    assert list(asked["names"]) == [1, 2, 3]
    assert len(set(asked["names"].values())) == 3


class Diverging(Members):
    """The second member has diverged, the third one is trained, the fourth is not."""

    store = SimpleNamespace(jobs=Path("jobs"), has=lambda kind, name: name != weights_key(Members().spec(3)))
    fixed_threads = contextlib.nullcontext

    def dense(self, index: int) -> None:
        if index == 1:
            raise DivergedError("its loss is nan")

    dense_predictions = dense


def test_no_job_is_submitted_for_what_is_known_to_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def run(task: object, shared: object, names: dict[int, str], **rest: object) -> list[int]:
        asked.extend(names)
        return asked

    monkeypatch.setattr(pipeline, "run_on_slurm", run)
    monkeypatch.setattr(pipeline, "_without", lambda population, seeds: seeds)
    assert finish(Diverging(), Slurm(None, 0, 5), exclude_diverged=True) == [6, 7, 8]
    assert asked == [2, 3]
    with pytest.raises(InputError, match=r"^member 1 \(seed 6\) diverged: its loss is nan; --ex"):
        finish(Diverging(), Slurm(None, 0, 5), exclude_diverged=False)
    assert asked == [2, 3]
