import errno
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pie_report import output, run_folder
from pie_report.report import Report
from pie_report.run_folder import check_output, check_same_spec, render_figures, render_gallery, write_run
from population.errors import InputError

PARTS = {"exhibits.npz", "figures", "gallery", "index.html", "predictions", "report.json", "tables"}


def as_report(source: Any) -> Report:
    return Report(source.document, source.tables, source.exhibits, source.predictions)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture
def plain_render(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Drawing takes seconds; where only the folder matters, marks stand for it."""
    folders: list[Path] = []

    def render(folder: Path) -> None:
        folders.append(folder)
        for name in ("figures", "gallery"):
            (folder / name).mkdir()
            (folder / name / "mark").write_text(folder.name)
        (folder / "index.html").write_text("page")

    monkeypatch.setattr(run_folder, "render_run", render)
    return folders


# --- where a report may go


def test_new_empty_and_run_folders_are_accepted_and_left_as_they_were(report: Any, tmp_path: Path) -> None:
    as_report(report).save(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for out in ("new", "deep/er/new", "empty", "run"):
        check_output(tmp_path / out)
    assert contents(tmp_path) == before
    assert names(tmp_path) == {"run", "empty"}
    assert not names(tmp_path / "empty")


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".pie-abc" / "new" / "tables").mkdir(parents=True)
    check_output(tmp_path)


def test_a_relative_folder_is_checked_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("runs/x"))
    check_output(Path())
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files than a report"):
        check_output(Path())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "is not a folder"),
        ("file/deeper/x", "is not a folder"),
        ("link", "is not a folder"),
        ("foreign", "holds other files than a report"),
        ("broken", "holds other files than a report"),
        ("x" * 300, "File name too long"),
    ],
)
def test_other_places_are_refused_and_left_as_they_were(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder, name, content in (("foreign", "index.html", "mine"), ("broken", "report.json", "{")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        check_output(tmp_path / out)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(InputError, match="Permission denied"):
        check_output(tmp_path / "locked" / "x")


# --- one spec per folder


def test_another_spec_is_refused_unless_forced(report: Any, tmp_path: Path) -> None:
    check_same_spec(tmp_path / "absent", report.document, force=False)
    as_report(report).save(tmp_path)
    check_same_spec(tmp_path, report.document, force=False)
    for part, name in (("spec", "seed"), ("data", "fingerprint")):
        other = report.document | {part: report.document[part] | {name: "other"}}
        command = report.document["spec"]["command_line"]
        with pytest.raises(InputError) as caught:
            check_same_spec(tmp_path, other, force=False)
        assert repr(command) in str(caught.value)
        check_same_spec(tmp_path, other, force=True)
    # what the work has shown is no part of the question, nor are versions of programs
    remaining = report.document["spec"] | {"seeds": [1], "excluded_seeds": [0]}
    check_same_spec(tmp_path, report.document | {"spec": remaining}, force=False)
    check_same_spec(tmp_path, report.document | {"environment": {}}, force=False)


# --- writing


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_a_run_is_complete_and_nothing_is_left_beside_it(report: Any, tmp_path: Path) -> None:
    page = write_run(as_report(report), tmp_path / "deep" / "run")
    assert page == tmp_path / "deep" / "run" / "index.html"
    assert names(tmp_path / "deep") == {"run"}
    assert names(tmp_path / "deep" / "run") == PARTS
    figures = names(tmp_path / "deep" / "run" / "figures")
    assert {
        f"{n}.{s}" for n in ("accuracy-cost", "class-change", "pies", "cka") for s in ("pdf", "png", "csv")
    } <= figures
    # everything that was drawn is drawn again from the folder alone, byte by byte
    run = tmp_path / "deep" / "run"
    before = contents(run)
    shutil.rmtree(run / "figures")
    shutil.rmtree(run / "gallery")
    render_figures(run)
    assert render_gallery(run) == run / "gallery" / "index.html"
    assert contents(run) == before


def test_figures_that_no_longer_suit_are_removed_and_others_stay(comparison: Any, tmp_path: Path) -> None:
    Report(comparison.document, comparison.tables, None, comparison.predictions).save(tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("cka.png", "mine.png"):
        (tmp_path / "figures" / name).write_text("old")
    drawn = render_figures(tmp_path)
    assert "cka" not in drawn
    assert names(tmp_path / "figures") == {
        "mine.png",
        *(f"{n}.{s}" for n in drawn for s in ("pdf", "png", "csv")),
    }


def test_a_comparison_has_no_gallery(comparison: Any, tmp_path: Path) -> None:
    Report(comparison.document, comparison.tables, None, comparison.predictions).save(tmp_path)
    with pytest.raises(InputError, match="has no images to show"):
        render_gallery(tmp_path)
    assert "gallery" not in names(tmp_path)


@pytest.mark.parametrize("render", [render_figures, render_gallery])
def test_only_runs_are_drawn_again(render: Any, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="is not a run"):
            render(folder)
    assert not names(tmp_path)


def test_a_new_report_replaces_the_old_one_and_nothing_else(
    report: Any, comparison: Any, tmp_path: Path, plain_render: list[Path]
) -> None:
    write_run(as_report(report), tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "gallery" / "old").write_text("old")
    write_run(Report(comparison.document, comparison.tables, None, comparison.predictions), tmp_path / "run")
    assert names(tmp_path / "run") == (PARTS - {"exhibits.npz"}) | {"notes.txt"}
    assert names(tmp_path / "run" / "gallery") == {"mark"}
    assert names(tmp_path / "run" / "tables") == {f"{name}.csv" for name in comparison.tables}
    assert names(tmp_path / "run" / "predictions") == {"dense.npz", "condition-1.npz"}
    assert Report.load(tmp_path / "run").document["spec"]["command"] == "compare"


def test_a_report_is_made_inside_its_folder(report: Any, tmp_path: Path, plain_render: list[Path]) -> None:
    # The folder may be a mount: nothing can be renamed into it from its parent.
    write_run(as_report(report), tmp_path / "run")
    assert plain_render[0].is_relative_to(tmp_path / "run")


def test_a_failure_leaves_the_old_report(
    report: Any, comparison: Any, tmp_path: Path, plain_render: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(as_report(report), tmp_path / "run")
    before = contents(tmp_path)

    def fail(folder: Path) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(run_folder, "render_run", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_run(
            Report(comparison.document, comparison.tables, None, comparison.predictions), tmp_path / "run"
        )
    assert contents(tmp_path) == before
    assert names(tmp_path / "run") == PARTS


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(folder: Path) -> None:
        (folder / "index.html").write_text("half a page")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "figure.png")

    monkeypatch.setattr(run_folder, "render_run", render)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_named_and_no_folder_is_left(report: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with pytest.raises(InputError) as caught:
        write_run(as_report(report), out)
    assert str(caught.value) == f"cannot write {out}: its disk is full; make room and run again"
    assert not names(tmp_path)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("file", [None, "report.json"])
def test_a_full_disk_leaves_a_folder_that_was_there(report: Any, tmp_path: Path, file: str | None) -> None:
    if file:
        (tmp_path / file).write_text("an older report")
    with pytest.raises(InputError, match="its disk is full"):
        write_run(as_report(report), tmp_path)
    assert contents(tmp_path) == ({file: b"an older report"} if file else {})
    assert names(tmp_path) == ({file} if file else set())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_the_report_is_in_place(
    report: Any,
    tmp_path: Path,
    plain_render: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    replace = output._replace

    def interrupted(*places: Path) -> None:
        signal.raise_signal(number)
        replace(*places)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_replace", interrupted)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_run(as_report(report), tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert names(tmp_path / "run") == PARTS


def test_what_killed_processes_left_is_removed(report: Any, tmp_path: Path, plain_render: list[Path]) -> None:
    (tmp_path / ".pie-abc" / "new" / "tables").mkdir(parents=True)
    (tmp_path / ".pie-lock").touch()
    write_run(as_report(report), tmp_path)
    assert names(tmp_path) == PARTS


def test_one_process_at_a_time_writes_a_run(report: Any, tmp_path: Path, plain_render: list[Path]) -> None:
    def write(_: int) -> None:
        write_run(as_report(report), tmp_path / "run")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(24))) == [None] * 24
    assert names(tmp_path / "run") == PARTS
    assert {p.parent.parent for p in plain_render} <= {tmp_path / "run"}


KILLED = """
import os, signal, sys
from pathlib import Path
from pie_report import output, run_folder
from pie_report.report import Report

def render(folder):
    (folder / "index.html").write_text("page")

moves = int(sys.argv[2])
replace = output._replace

def count(*places):
    global moves
    if moves == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    moves -= 1
    replace(*places)

run_folder.render_run, output._replace = render, count
document = {"schema": 2, "spec": {"seed": 0}, "data": {}, "dense": {}, "compressed": []}
run_folder.write_run(Report(document, {}, None, {}), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moves", [0, 1, 3])
def test_a_run_that_is_killed_while_it_is_put_in_place_can_be_repeated(
    report: Any, tmp_path: Path, plain_render: list[Path], moves: int
) -> None:
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), str(moves)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    check_output(out)
    check_same_spec(out, {"spec": {"seed": 0}, "data": {}}, force=False)
    write_run(as_report(report), out)
    assert {n for n in names(out) if not n.startswith(".pie-")} == PARTS
