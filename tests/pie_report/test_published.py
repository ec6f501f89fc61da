import re
from pathlib import Path

import pytest

from pie_report import attribution_maps, cli, layer_similarity
from pie_report.command_line import command_line
from pie_report.commands import Report
from pie_report.parsing import parse
from pie_report.published import PUBLISHED
from population.schedule import WINDOW
from population.spec import ReportSpec

#: The smallest run there is: what it says is of no interest here.
TINY = (
    "--data",
    "digits",
    "--members",
    "2",
    "--epochs",
    "1",
    "--width",
    "2",
    "--batch-size",
    "64",
    "--quiet",
)


def parsed(*argv: str) -> ReportSpec:
    return parse(Report, "report", [*argv]).spec


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_where_a_command_begins(name: str) -> None:
    spec = parsed("--preset", name)
    assert spec == PUBLISHED[name].spec
    assert spec == parsed(f"--preset={name}")
    changed = parsed("--preset", name, "--members", "3", "--prune", "0.25")
    assert changed.prune == (0.25,)
    assert changed.population.members == 3
    assert changed.merge == spec.merge
    assert changed.timing == spec.timing
    assert changed.population.batch_size == spec.population.batch_size


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_says_all_of_itself_in_its_command(name: str) -> None:
    spec = PUBLISHED[name].spec
    command = command_line(spec)
    assert "preset" not in command
    assert parsed(*command.split()[2:]) == spec


def test_a_command_says_how_many_devices_train_a_member() -> None:
    spec = ReportSpec(merge=(0.5,))
    assert "--gpus" not in command_line(spec, devices=1)
    again = parse(Report, "report", command_line(spec, devices=2).split()[2:])
    assert (again.spec, again.execution.devices) == (spec, 2)


@pytest.mark.parametrize("name", ["hooker2019", "corti2022", "wang2025"])
def test_the_small_one_asks_the_same_of_less(name: str) -> None:
    full, small = PUBLISHED[name].spec, PUBLISHED[f"{name}-small"].spec
    assert small.network == full.network
    assert small.timing.schedule == full.timing.schedule
    assert set(small.prune) <= set(full.prune)
    assert set(small.merge) <= set(full.merge)
    assert small.population.members < full.population.members or name == "wang2025"
    assert small.population.width < full.population.width


def test_the_numbers_that_were_published() -> None:
    hooker, corti = PUBLISHED["hooker2019"].spec, PUBLISHED["corti2022"].spec
    for spec in (hooker, corti):
        assert spec.population.members == 30
        assert spec.prune == (0.3, 0.5, 0.7, 0.9)
        assert spec.population.data == "cifar10"
        assert spec.network.endswith("wrn16_2")
    assert hooker.design == "independent"
    assert (corti.population.epochs, corti.population.batch_size) == (500, 1024)
    assert corti.timing.windows[1] == (2440, 4760)
    assert (corti.timing.prune_every, corti.timing.finetune_epochs) == (62, (30,))
    assert PUBLISHED["wang2025"].spec.repair == ReportSpec(merge=(0.5,)).repair  # BatchNorm re-estimated


@pytest.mark.parametrize("name", ["corti2022-small", "hooker2019"])
def test_another_schedule_leaves_behind_what_does_not_go_with_it(name: str) -> None:
    later = parsed("--preset", name, "--schedule", "end").timing
    assert (later.schedule, later.windows, later.prune_every) == (("end",), (WINDOW,), None)
    assert later.finetune_epochs == PUBLISHED[name].spec.timing.finetune_epochs
    on_the_way = parsed("--preset", name, "--schedule=gradual").timing
    assert on_the_way.schedule == ("gradual",)
    assert on_the_way.windows == PUBLISHED[name].spec.timing.windows
    assert on_the_way.finetune_epochs == (0,)


def test_a_command_has_numbers_to_the_last_digit() -> None:
    command = command_line(ReportSpec(merge=(0.123456789, 0.5)))
    assert "--merge 0.123456789 0.5 " in command


def test_help_names_presets_their_source_and_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["report", "--preset", "corti2022", "--help"])
    words = " ".join(re.sub(r"[│╭╰╮╯─]", " ", capsys.readouterr().out).split())
    assert "arXiv 2207.00200" in words
    assert "Different here: the early window" in words
    for name in ("hooker2019", "corti2022", "wang2025", "-small"):
        assert name in words


def test_an_unknown_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--preset", "corti"]) == 2
    assert "unknown preset 'corti' (did you mean 'corti2022'?)" in capsys.readouterr().err
    assert cli.main(["report", "--preset"]) == 2


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("-small")])
def test_every_small_preset_runs_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attribution_maps, "IMAGES", 2)
    monkeypatch.setattr(layer_similarity, "IMAGES", 100)
    one = "--merge 0.45 --filters 0.45" if "wang" in name else "--prune 0.9"
    places = ("--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--workers", "1")
    assert cli.main(["report", "--preset", name, *one.split(), *TINY, *places]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "index.html").is_file()
