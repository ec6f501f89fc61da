import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pie_report import cli, commands
from pie_report.report import Report

Complaint = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and a store in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIE_STORE", str(folder / "store"))
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def complaint(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> Complaint:
    """Runs a command that must be refused, and returns what it says."""

    def run(*argv: str) -> str:
        before = everything(elsewhere)
        status = cli.main(argv)
        printed = capsys.readouterr()
        assert status == 2, printed.err
        assert printed.out == ""
        assert printed.err.endswith("\n")
        assert printed.err.count("\n") <= 2, printed.err
        assert not set("│╭╰╮╯─\x1b") & set(printed.err)
        assert "--------" not in printed.err
        assert everything(elsewhere) == before
        return printed.err

    return run


def predictions(path: Path, k: int = 4, **changes: Any) -> str:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 30)
    arrays = {
        "sample_id": np.array([f"s{i}" for i in range(30)]),
        "predicted": (label + (rng.random((k, 30)) < 0.3)) % 3,
        "label": label,
    } | changes
    np.savez(path, **arrays)
    return str(path)


# --- bad input of pie report


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("repot", "unknown command 'repot' (did you mean 'report'?); allowed: across, compare, data, "),
        ("--bogus", "unknown command '--bogus'"),
        ("report", "nothing to compare: give at least one of --merge, --prune, --filters, --random"),
        ("report --merge 0.5 --model simclr_r81", "unknown model 'simclr_r81' (did you mean 'simclr_r18'?)"),
        ("train --model simclr", "unknown model 'simclr' (did you mean 'simclr_r50'?)"),
        ("train --model byol_wrn16-2", "unknown model 'byol_wrn16-2' (did you mean 'byol_wrn16_2'?)"),
        ("report --merge 0.5 --data digit", "unknown data set 'digit' (did you mean 'digits'?)"),
        ("report --merge 0.5 --data imagefolder", "(did you mean 'imagefolder:PATH'?)"),
        (
            "report --merge 0.5 --device gpu",
            "unknown device 'gpu' (did you mean 'cpu'?); allowed: auto, cpu, cuda",
        ),
        (
            "report --merge 0.5 --repair bm",
            "unknown repair 'bm' (did you mean 'bn'?); allowed: bn, data-free, least-squares, none",
        ),
        ("report --merge 0.5 --probe refitt", "unknown probe 'refitt' (did you mean 'refit'?)"),
        ("report --merge 0.5 --repair", "--repair needs at least one repair"),
        ("report --merge 0.5 --repair bn --repair none", "--repair is given twice; list all after one"),
        ("report --merge 0.5 --prune 0.5 --repair bn least-squares", "it does not go with --prune"),
        ("report --merge 0.5 --probe frozen refitt", "unknown probe 'refitt'"),
        ("report --merge 0.5 --probe knn", "--probe knn has no gradients"),
        ("report --merge 0.5 --probe", "--probe needs at least one probe"),
        ("report --merge", "--merge needs at least one amount"),
        ("report --merge --prune 0.5", "--merge needs at least one amount"),
        ("report --prune 0.5 --merge=", "--merge"),
        ("report --merge 0.5 --merge 0.3", "--merge is given twice"),
        ("report --merge 0.5 --merge=0.3", "--merge is given twice"),
        ("report --merge 0.5 0.5", "the same method and amount is given twice"),
        ("report --merge 0.5 --member 3", "--member"),
        ("report --merge 0.5 --bogus", "--bogus"),
        ("report --merge 0.5 stray", "stray"),
        ("report --merge 0.5 --members 1", "--members must be at least 2, not 1: one model is no population"),
        ("report --merge 0.5 --members 0", "--members must be at least 2, not 0"),
        ("report --merge 0.5 --members -3", "--members must be at least 2, not -3"),
        ("report --merge 0.5 --members x", "--members"),
        ("report --merge 0.5 --members 2.5", "--members"),
        ("report --merge 0.5 --members", "--members"),
        ("train --members 1", "--members must be at least 2"),
        ("report --merge 0.5 --schedule", "--schedule needs at least one name"),
        ("report --merge 0.5 --schedule late", "unknown schedule 'late'"),
        ("report --merge 0.5 --schedule end end", "--schedule needs at least one value, and each once"),
        ("report --merge 0.5 --schedule gradual", "--schedule gradual is for --prune alone"),
        (
            "report --merge 0.5 --prune 0.9 --schedule gradual",
            "--schedule gradual is for --prune alone; --merge needs one of end, start, midway",
        ),
        ("report --merge 0.5 --finetune-epochs -1", "--finetune-epochs must not be negative, not -1"),
        ("report --merge 0.5 --schedule start --finetune-epochs 2", "--finetune-epochs is for networks"),
        ("report --prune 0.9 --prune-window 0 1", "--prune-window is for --schedule gradual"),
        ("report --prune 0.9 --prune-every 9", "--prune-every is for --schedule gradual"),
        ("report --prune 0.9 --schedule gradual --prune-every 0", "--prune-every must be at least 1, not 0"),
        ("report --prune 0.9 --schedule gradual --prune-window 0", "--prune-window needs pairs"),
        ("report --prune 0.9 --schedule gradual --prune-window 0.5 1.5", "--prune-window takes shares in"),
        ("report --prune 0.9 --schedule gradual --prune-window -1 1", "--prune-window"),
        ("report --prune 0.9 --schedule gradual --prune-window nan 1", "--prune-window takes shares in"),
        ("report --prune 0.9 --schedule gradual --prune-window 0.5 0.5", "ends before anything is pruned"),
        ("report --prune 0.9 --schedule gradual --prune-window 0 1 0 1", "has the same pair twice"),
        (
            "report --prune 0.9 --schedule gradual --prune-window 5 999999",
            "--prune-window 5 999999 is steps 5 to 999999 of a training of 105 steps",
        ),
        ("report --merge 0.5 --prune-scope layer", "--prune-scope and --prune-classifier are for --prune"),
        ("report --prune 0.5 --prune-scope all", "unknown scope 'all'"),
        (
            "report --prune 0.5 --schedule start --seed 4294967280",
            "--seed must be in [0, 4294967276] for twice 10 members, not 4294967280",
        ),
        (
            "report --prune 0.5 --schedule start --checkpoints x.pt --arch resnet18",
            "--schedule and --finetune-epochs are for networks that are trained here",
        ),
        ("report --merge 0.5 --width 0", "--width must be at least 1, not 0"),
        ("report --merge 0.5 --label-fraction 0", "--label-fraction must be in (0, 1], not 0"),
        ("report --merge 0.5 --label-fraction 1.5", "--label-fraction must be in (0, 1], not 1.5"),
        ("train --label-fraction nan", "--label-fraction must be in (0, 1], not nan"),
        ("train --label-fraction 0.001", "--label-fraction 0.001 of 901 images is fewer than one for each"),
        ("train --evaluation finetun", "unknown evaluation 'finetun' (did you mean 'finetune'?)"),
        ("train --model supervised_r18 --evaluation finetune", "--evaluation is for encoders that get"),
        ("train --model supcon_r18 --label-fraction 0.1", "supcon_r18 needs the labels of all images"),
        (
            "report --merge 0.5 --checkpoints a.pt --arch resnet18 --label-fraction 0.1",
            "--label-fraction is for networks that are trained here; it does not go with --checkpoints",
        ),
        ("report --merge 0.5 --epochs 0", "--epochs must be at least 1, not 0"),
        ("report --merge 0.5 --seed -1", "--seed must be in [0, 4294967286]"),
        ("report --merge 0.5 --seed 99999999999999999999", "--seed must be in [0, 4294967286]"),
        ("report --merge 0.5 --workers 0 --quiet", "--workers must be at least 1, not 0"),
        ("train --executor cluster", "unknown executor 'cluster' (did you mean 'slurm'?); allowed: "),
        (
            "report --model supervised_r18 --prune 0.9 --schedule end gradual --probe refit",
            "--probe refit: supervised networks that are compressed while they train keep the classifier",
        ),
        (
            "report --epochs 1 --batch-size 2000 --merge 0.5 --schedule midway",
            "--schedule midway needs a training of at least 2 steps, not 1",
        ),
        ("train --gpus -1", "--gpus must not be negative, not -1"),
        (
            "report --merge 0.5 --checkpoints a.pt --arch resnet18 --gpus 2",
            "--gpus 2 is for networks that are trained here, not for --checkpoints",
        ),
        ("train --partition long", "--partition does not go with --executor local"),
        ("report --merge 0.5 --time 60", "--time does not go with --executor local"),
        ("train --executor slurm --workers 2", "--workers does not go with --executor slurm"),
        (
            "report --merge 0.5 --schedule midway --gpus 2",
            "--gpus 2: networks that lose channels midway train on one device: --gpus 1",
        ),
        (
            "train --executor slurm --time 1:30",
            "--time must be minutes or HH:MM:SS, at least a minute",
        ),
        ("report --merge 0.5 --data cifar10", "cifar10 needs --data-dir"),
        ("report --merge 0.5 --data cifar10 --data-dir nowhere", "no intact cifar10 in nowhere"),
        ("report --merge 0.5 --data imagefolder:nowhere", "no such image folder: nowhere"),
        ("train --data svhn", "svhn needs --data-dir"),
        ("train --label-column age", "--label-column names a column of a table: give --groups FILE as well"),
        ("train --label-bins 20 40", "--label-bins are bounds of a column of numbers: give --label-column"),
        ("train --groups a.csv", "--groups FILE needs --group-columns, --label-column or both"),
        (
            "train --group-columns sex",
            "columns of a table, and digits has none of its own: give --groups FILE",
        ),
        ("train --group-columns a a", "--group-columns names a column twice: a a"),
        ("train --group-columns", "--group-columns needs at least one column"),
        (
            "train --groups a.csv --label-column x --label-bins 4 4",
            "--label-bins must be rising numbers, not 4 4",
        ),
        ("train --groups a.csv --label-column x --label-bins 4 nan", "--label-bins must be rising numbers"),
        (
            "train --groups a.csv --label-column x",
            "--label-column is for imagefolder:PATH; digits has labels",
        ),
        ("train --groups a.csv --group-columns x", "--groups: no such file: a.csv"),
        ("train --data planted", "(did you mean 'planted:SHARE'?)"),
        (
            "train --data planted:0.7",
            "planted:SHARE needs a share in (0, 0.5], as in planted:0.15, not '0.7'",
        ),
        ("train --data planted:0.1 --group-columns sex", "the only column of planted is style"),
        ("train --data mnist --data-dir nowhere", "no intact mnist in nowhere (expected MNIST/raw in it)"),
        ("data --data-dir nowhere", "--data-dir: no such folder: nowhere"),
        ("models simclr", "simclr"),
    ],
)
def test_bad_input_of_a_report(complaint: Complaint, argv: str, expected: str) -> None:
    assert expected in complaint(*argv.split())


@pytest.mark.parametrize("amount", ["1", "1.5", "-0.1", "nan", "inf", "-inf", "abc", "0,5", "1e400"])
@pytest.mark.parametrize("method", ["merge", "prune", "filters", "random"])
def test_bad_amounts(complaint: Complaint, method: str, amount: str) -> None:
    assert f"--{method}" in complaint("report", f"--{method}", amount)
    assert f"--{method}" in complaint("report", f"--{method}", "0.5", amount)


def test_a_device_that_is_not_here(complaint: Complaint, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda or --gpus: this machine has no usable GPU" in complaint(
        "report", "--merge", "0.5", "--device", "cuda"
    )


def test_damaged_data(complaint: Complaint, elsewhere: Path) -> None:
    batches = elsewhere / "data" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    (batches / "data_batch_1").write_bytes(b"cut")
    assert "no intact cifar10 in data" in complaint(
        "report", "--merge", "0.5", "--data", "cifar10", "--data-dir", "data"
    )
    (elsewhere / "pets").mkdir()
    assert "pets has no images" in complaint("report", "--merge", "0.5", "--data", "imagefolder:pets")
    for name in ("cat", "dog"):
        (elsewhere / "pets" / name).mkdir()
        for i in range(20):
            (elsewhere / "pets" / name / f"{i}.png").write_bytes(b"no image")
    assert "cannot read the image pets/" in complaint("train", "--data", "imagefolder:pets")


@pytest.mark.parametrize(
    ("out", "expected"),
    [("file/x", "file is not a folder"), ("foreign", "foreign holds other files than a report")],
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_bad_places(complaint: Complaint, elsewhere: Path, out: str, expected: str, force: list[str]) -> None:
    (elsewhere / "file").write_text("x")
    (elsewhere / "foreign").mkdir()
    (elsewhere / "foreign" / "thesis.tex").write_text("x")
    files = predictions(elsewhere / "a.npz"), predictions(elsewhere / "b.npz")
    assert expected in complaint("report", "--merge", "0.5", "--out", out, *force)
    assert expected in complaint("compare", *files, "--design", "paired", "--out", out, *force)


def test_a_store_that_cannot_be_written(complaint: Complaint, elsewhere: Path) -> None:
    (elsewhere / "file").write_text("x")
    tiny = ("--members", "2", "--epochs", "1", "--width", "1", "--workers", "1")
    for command in (("report", "--merge", "0.5"), ("train",)):
        assert "cannot write the store file/x" in complaint(*command, *tiny, "--store", "file/x")


# --- bad input of pie compare, pie gallery, pie figures


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", "DENSE.npz"),
        ("a.npz", "COMPRESSED.npz"),
        ("a.npz a.npz", "--design"),
        ("a.npz a.npz --design paired", "--out"),
        ("a.npz a.npz --design paird --out o", "unknown design 'paird' (did you mean 'paired'?)"),
        ("a.npz a.npz --design paired --out o --seed -1", "--seed must not be negative"),
        ("a.npz a.npz a.npz --design paired --out o", "a.npz"),
        ("a.npz absent.npz --design paired --out o", "no such predictions file: absent.npz"),
        ("a.npz . --design paired --out o", "no such predictions file"),
        ("a.npz cut.npz --design paired --out o", "cut.npz is not a readable npz"),
        ("a.npz noise.npz --design paired --out o", "noise.npz is not a readable npz"),
        ("a.npz empty.npz --design paired --out o", "empty.npz is not a readable npz"),
        ("a.npz pickled.npz --design paired --out o", "pickled.npz is not a readable npz"),
        (
            "a.npz nan.npz --design paired --out o",
            "nan.npz: predicted must be whole class indices; it has NaN",
        ),
        ("a.npz margins.npz --design paired --out o", "margins.npz: margin has NaN"),
        ("a.npz lacking.npz --design paired --out o", "lacking.npz lacks predicted"),
        ("a.npz other.npz --design paired --out o", "different samples"),
        (
            "a.npz one.npz --design independent --out o",
            "at least 2 models are needed on each side, or 1 on both, not 4 and 1",
        ),
        ("a.npz three.npz --design paired --out o", "a paired design needs equal K, not 4 and 3"),
        (
            "a.npz a.npz --design paired --out o --groups g.csv",
            "--groups FILE and --group-columns go together",
        ),
        ("a.npz a.npz --design paired --out o --group-columns x", "--groups FILE and --group-columns go"),
        ("a.npz a.npz --design paired --out o --groups g.csv --group-columns x", "no such file: g.csv"),
        (
            "a.npz a.npz --design paired --out o --groups h.csv --group-columns x",
            "no row for 28 of 30 images",
        ),
    ],
)
def test_bad_input_of_a_comparison(complaint: Complaint, elsewhere: Path, argv: str, expected: str) -> None:
    whole = Path(predictions(elsewhere / "a.npz")).read_bytes()
    (elsewhere / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (elsewhere / "noise.npz").write_bytes(np.random.default_rng(0).bytes(500))
    (elsewhere / "empty.npz").write_bytes(b"")
    predictions(elsewhere / "pickled.npz", label=np.array([{}] * 30, dtype=object))
    predictions(elsewhere / "nan.npz", predicted=np.full((4, 30), np.nan))
    predictions(elsewhere / "margins.npz", margin=np.full((4, 30), np.nan))
    np.savez(elsewhere / "lacking.npz", sample_id=np.arange(30))
    predictions(elsewhere / "other.npz", sample_id=np.array([f"t{i}" for i in range(30)]))
    predictions(elsewhere / "one.npz", k=1)
    predictions(elsewhere / "three.npz", k=3)
    (elsewhere / "h.csv").write_text("sample_id,x\ns0,a\ns1,b\n")
    assert expected in complaint("compare", *argv.split())


@pytest.mark.parametrize("command", ["gallery", "figures"])
def test_what_is_no_run_is_not_drawn(complaint: Complaint, elsewhere: Path, command: str) -> None:
    (elsewhere / "foreign").mkdir()
    (elsewhere / "foreign" / "report.json").write_text('{"name": "a package"}')
    (elsewhere / "file").write_text("x")
    assert "foreign/report.json is not a report" in complaint(command, "foreign")
    assert "absent is not a run" in complaint(command, "absent")
    assert "file is not a run" in complaint(command, "file")
    assert ". is not a run" in complaint(command, ".")
    assert "RUN" in complaint(command)
    assert "two" in complaint(command, "one", "two")


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_a_damaged_run_is_not_drawn(complaint: Complaint, report: Any, elsewhere: Path) -> None:
    Report(report.document, report.tables, report.exhibits, report.predictions).save(elsewhere / "run")
    (elsewhere / "run" / "tables" / "pies.csv").unlink()
    for command in ("gallery", "figures"):
        assert "run lacks tables/pies.csv" in complaint(command, "run")


# --- what is printed


def test_messages_are_one_line_on_a_terminal_too(
    complaint: Complaint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    assert complaint("report", "--merge", "0.5", "--bogus") == "pie: Unrecognized options: --bogus\n"
    assert complaint("report", "--merge", "0.5", "--members", "1") == (
        "pie: --members must be at least 2, not 1: one model is no population\n"
    )


def test_debug_shows_where_and_keeps_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gallery", "absent", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def fail(flags: object) -> None:
    raise RuntimeError("two\nlines")


def get(number: signal.Signals) -> Callable[[object], None]:
    """A command that is sent a signal."""

    def command(flags: object) -> None:
        signal.raise_signal(number)

    return command


def make_nothing_of_it(flags: object) -> None:
    """A command that is interrupted in a library which makes an error of its own of it."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("half a module") from None


@pytest.mark.parametrize(
    ("command", "status", "expected"),
    [
        (get(signal.SIGINT), 130, "pie: interrupted; the same command goes on from here\n"),
        (get(signal.SIGTERM), 143, "pie: terminated; the same command goes on from here\n"),
        (make_nothing_of_it, 130, "pie: interrupted; the same command goes on from here\n"),
        (fail, 1, "pie: failed: RuntimeError: two lines (--debug shows where)\n"),
    ],
)
def test_failures_have_a_status_of_their_own(
    command: Callable[[object], None],
    status: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setitem(commands.COMMANDS, "gallery", (commands.Gallery, command))
    assert cli.main(["gallery", "x"]) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", expected)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.COMMANDS, "gallery", (commands.Gallery, get(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        assert cli.main(["gallery", "x"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("report", "compare", "gallery", "figures", "stats", "train", "models", "data"):
        assert f"\n  {command} " in text
    assert cli.main([]) == 2
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    "command", ["report", "compare", "gallery", "figures", "stats", "train", "models", "data"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert not stop.value.code
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"usage: pie {command}" in printed.out
    assert f"example: {'pie' if command != 'report' else 'pie-report'}" in printed.out
    if command == "report":
        flags = (
            "model merge prune filters random data data-dir download members probe repair store out force"
            " seed device json quiet debug width epochs exclude-diverged"
        )
        for flag in flags.split():
            assert f"--{flag}" in printed.out
        for default in ("simclr_r18", "digits", "10", "frozen", "bn", "auto"):
            assert f"(default: {default})" in " ".join(printed.out.split())


HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "sklearn", "scipy", "lightly", "numpy")


def run_program(entry: str, *argv: str, absent: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The program in a fresh interpreter, which says at its end what of ``absent`` it has loaded."""
    script = (
        "import atexit, sys; from pie_report import cli; sys.argv = sys.argv[:1] + sys.argv[2:];"
        f"loaded = lambda: [n for n in {absent!r} if n in sys.modules];"
        "atexit.register(lambda: print('loaded', loaded(), file=sys.stderr));"
        f"sys.exit(cli.{entry}())"
    )
    return subprocess.run(
        [sys.executable, "-c", script, "pie", *argv], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("entry", "argv", "expected"),
    [
        ("main", ("--help",), "usage: pie COMMAND"),
        ("main", ("--version",), "pie-toolkit "),
        ("main", ("report", "--help"), "usage: pie report"),
        ("main", ("models",), "A model is OBJECTIVE_ARCHITECTURE"),
        ("main", ("data", "--json"), '[\n {\n  "name": "digits"'),
        ("main_report", ("--help",), "usage: pie report"),
        ("main_report", ("--version",), "pie-toolkit "),
    ],
)
def test_help_and_version_load_nothing_heavy(entry: str, argv: tuple[str, ...], expected: str) -> None:
    done = run_program(entry, *argv, absent=HEAVY)
    assert (done.returncode, done.stderr) == (0, "loaded []\n")
    assert done.stdout.startswith(expected)


def test_models_and_data_are_listed(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert cli.main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert "supcon_mobilenet_v2" in models["models"]
    assert [row["name"] for row in models["architectures"]][:2] == ["r18", "r34"]
    (elsewhere / "MNIST" / "raw").mkdir(parents=True)
    assert cli.main(["data", "--data-dir", ".", "--json"]) == 0
    found = {row["name"]: row["found"] for row in json.loads(capsys.readouterr().out)}
    assert (found["mnist"], found["cifar10"], found["imagefolder:PATH"]) == (True, False, None)
    for command in ("models", "data"):
        assert cli.main([command]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        assert max(map(len, printed.out.splitlines())) <= 110


def test_a_short_name_for_the_main_job() -> None:
    done = run_program("main_report", "--merge", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("pie: --merge must be an amount in [0, 1), not 2\n")


def test_the_installed_programs_are_these() -> None:
    from importlib.metadata import entry_points

    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    assert scripts["pie"] == "pie_report.cli:main"
    assert scripts["pie-report"] == "pie_report.cli:main_report"


# --- pie compare, whole


def test_a_comparison_from_files_to_a_folder(
    complaint: Complaint, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = predictions(elsewhere / "a.npz"), predictions(elsewhere / "b.npz", k=6)
    command = ["compare", *files, "--design", "independent", "--out", "cmp"]
    done = run_program("main", *command, absent=("torch", "torchvision", "lightly", "captum"))
    assert (done.returncode, done.stderr) == (0, "loaded []\n")
    assert done.stdout == f"{elsewhere / 'cmp' / 'index.html'}\n"
    run = everything(elsewhere / "cmp")
    assert {"index.html", "report.json", "tables/pies.csv", "tables/summary.csv", "figures/pies.pdf"} <= set(
        run
    )
    assert not {"gallery", "exhibits.npz"} & set(run)
    assert not (elsewhere / "store").exists()

    # the same again: the same bytes, and the document on standard output
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((elsewhere / "cmp" / "report.json").read_text())
    assert printed.out == (elsewhere / "cmp" / "report.json").read_text()
    assert printed.err == ""
    assert everything(elsewhere / "cmp") == run

    # another spec: refused, unless forced
    refused = complaint(*command, "--seed", "1")
    assert (
        "cmp holds the report of 'pie compare DENSE.npz COMPRESSED.npz --design independent --seed 0'"
        in refused
    )
    assert "--force" in refused
    assert cli.main([*command, "--seed", "1", "--force"]) == 0
    assert json.loads((elsewhere / "cmp" / "report.json").read_text())["spec"]["seed"] == 1
    capsys.readouterr()

    # its figures can be drawn again, a gallery it has none
    assert "cmp has no images to show" in complaint("gallery", "cmp")
    before = everything(elsewhere / "cmp")
    assert cli.main(["figures", "cmp"]) == 0
    assert capsys.readouterr().out == f"{elsewhere / 'cmp' / 'figures'}\n"
    assert everything(elsewhere / "cmp") == before


def test_a_store_has_three_places(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands.Places().open_store().root == elsewhere / "store"
    assert commands.Places(store=Path("mine")).open_store().root == Path("mine")
    monkeypatch.delenv("PIE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "cache"))
    if os.name == "posix" and sys.platform != "darwin":
        assert commands.Places().open_store().root == elsewhere / "cache" / "pie-toolkit"


def test_a_reader_that_leaves_ends_the_command_in_silence() -> None:
    command = [sys.executable, "-m", "pie_report.cli", "data"]
    root = Path(cli.__file__).parents[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        error = process.stderr.read()
    assert error == ""
    assert process.returncode == 128 + signal.SIGPIPE
