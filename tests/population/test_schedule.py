import pytest

from population.errors import InputError
from population.schedule import WINDOW, Schedule, ScheduleSpec
from population.spec import SEEDS, CompressionSpec, PopulationSpec, ReportSpec, canonical, key


def test_compression_after_training_keeps_its_key() -> None:
    plain = CompressionSpec("prune", 0.9, "bn", "frozen")
    assert ReportSpec(prune=(0.9,)).conditions == (plain,)
    assert "schedule" not in canonical(plain)
    others = [
        CompressionSpec("prune", 0.9, "bn", "frozen", schedule)
        for schedule in (
            Schedule("end", 2),
            Schedule("start"),
            Schedule("gradual"),
            Schedule("gradual", every=3),
        )
    ]
    others += [CompressionSpec("prune", 0.9, "bn", "frozen", scope="layer")]
    others += [CompressionSpec("prune", 0.9, "bn", "frozen", classifier=True)]
    assert len({key(c) for c in (plain, *others)}) == 7


def test_whole_numbers_and_others_make_the_same_key() -> None:
    whole, others = (
        ReportSpec(prune=(0.9,), timing=ScheduleSpec(("gradual",), prune_window=window)).conditions
        for window in ((0, 100), (0.0, 100.0))
    )
    assert key(*whole) == key(*others)


def test_conditions_of_all_schedules_by_hand() -> None:
    timing = ScheduleSpec(
        ("end", "start", "gradual"),
        (0, 3),
        (0.25, 0.75, 0, 100),
        7,
        prune_scope="layer",
        prune_classifier=True,
    )
    found = ReportSpec(merge=(0.5,), prune=(0.9,), timing=timing).conditions
    assert [c.title for c in found] == [
        "merge 0.5", "merge 0.5 + 3 epochs", "merge 0.5 start",
        "prune 0.9", "prune 0.9 + 3 epochs", "prune 0.9 start",
        "prune 0.9 gradual", "prune 0.9 gradual 0 100",
    ]  # fmt: skip
    assert [c.design for c in found] == [
        *("paired", "paired", "independent"),
        *("paired", "paired", "independent", "independent", "independent"),
    ]
    assert {(c.scope, c.classifier) for c in found[:3]} == {("global", False)}
    assert {(c.scope, c.classifier) for c in found[3:]} == {("layer", True)}
    # Training mends networks, and their probe is their own.
    assert {(c.repair, c.probe) for c in found if c.design == "independent"} == {("none", "refit")}
    assert {(c.repair, c.probe) for c in found if c.design == "paired"} == {("bn", "frozen")}
    assert found[6].schedule == Schedule("gradual", 0, WINDOW, 7)


@pytest.mark.parametrize(
    ("schedule", "design"),
    [(("end",), "paired"), (("start", "midway"), "independent"), (("end", "start"), "mixed")],
)
def test_the_design_of_a_report(schedule: tuple[str, ...], design: str) -> None:
    assert ReportSpec(merge=(0.5,), timing=ScheduleSpec(schedule)).design == design


def test_seeds_for_networks_of_their_own_have_to_exist() -> None:
    population = PopulationSpec(members=4, seed=SEEDS - 8)
    late = ScheduleSpec(("midway",))
    assert ReportSpec(population=population, merge=(0.5,), timing=late).conditions
    population = PopulationSpec(members=4, seed=SEEDS - 7)
    assert ReportSpec(population=population, merge=(0.5,)).conditions
    with pytest.raises(InputError, match="for twice 4 members"):
        ReportSpec(population=population, merge=(0.5,), timing=late)
