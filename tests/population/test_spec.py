import json
import math
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from population.errors import InputError
from population.spec import (
    Augmentation,
    CheckpointSpec,
    CompressionSpec,
    LabelSpec,
    LoadedSpec,
    MemberSpec,
    ModelSpec,
    PopulationSpec,
    RemainingSpec,
    ReportSpec,
    TrainingSpec,
    canonical,
    key,
)

MEMBER = MemberSpec(
    model=ModelSpec("simclr", "r18", num_classes=10, in_channels=1, width=16),
    training=TrainingSpec(
        epochs=15,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=1e-4,
        temperature=0.2,
        momentum=0.99,
        augmentation=Augmentation(min_scale=0.5, rotation=15, flip=False, colour=0.4, grey=0),
    ),
    data="0123456789abcdef",
    seed=7,
    device="cpu",
    threads=2,
)


def test_the_key_of_a_known_spec_does_not_change() -> None:
    # Pinned: a change here makes every stored result unreachable, and needs a new FORMAT.
    assert canonical(MEMBER) == (
        '[3,{"MemberSpec":{"data":"0123456789abcdef","device":"cpu","model":{"ModelSpec":{"architecture":'
        '"r18","in_channels":1,"num_classes":10,"objective":"simclr","width":16}},"seed":7,"threads":2,'
        '"training":{"TrainingSpec":{"augmentation":{"Augmentation":{"colour":0.4,"flip":false,"grey":0,'
        '"min_scale":0.5,"rotation":15}},"batch_size":128,"epochs":15,"learning_rate":0.003,"momentum":0.99,'
        '"temperature":0.2,"weight_decay":0.0001}}}}]'
    )
    assert key(MEMBER) == "9026e9eae152bb1619a6"
    assert key(MEMBER, CompressionSpec("merge", 0.5, "bn", "frozen"), 5000) == "290572d5f5724e344452"


def test_the_stem_is_in_the_key() -> None:
    model = MEMBER.model
    other = replace(model, stem="imagenet")
    assert len({key(model), key(other), key(MEMBER), key(replace(MEMBER, model=other))}) == 4


def test_a_new_option_at_its_default_leaves_keys_as_they_were() -> None:
    assert canonical(PopulationSpec()) == '[3,{"PopulationSpec":{}}]'
    assert canonical(PopulationSpec(epochs=3)) == '[3,{"PopulationSpec":{"epochs":3}}]'
    assert canonical(ReportSpec(merge=(0.5,))) == '[3,{"ReportSpec":{"merge":[0.5]}}]'


def paths(spec: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of a spec and of the specs in it."""
    found = []
    for field in fields(spec):
        value = getattr(spec, field.name)
        place = (*prefix, field.name)
        found += paths(value, place) if is_dataclass(value) else [place]
    return found


def changed(spec: Any, path: tuple[str, ...], change: int) -> Any:
    """The spec with another value at one place."""
    name, *rest = path
    value = getattr(spec, name)
    if rest:
        return replace(spec, **{name: changed(value, tuple(rest), change)})
    if isinstance(value, bool):
        return replace(spec, **{name: not value})
    if value is None:
        return replace(spec, **{name: LabelSpec(0.1, change)})
    return replace(spec, **{name: value + (str(change) if isinstance(value, str) else change)})


def test_what_is_seen_of_labels_is_in_the_key() -> None:
    specs = [
        replace(MEMBER, labels=labels)
        for labels in (
            None, LabelSpec(0.1, 0), LabelSpec(0.2, 0), LabelSpec(0.1, 1),
            LabelSpec(0.1, 0, MEMBER.training), LabelSpec(0.1, 0, replace(MEMBER.training, epochs=3)),
        )
    ]  # fmt: skip
    remaining = [RemainingSpec(**vars(spec), excluded=(8,)) for spec in specs]
    assert len({key(spec) for spec in (*specs, *remaining)}) == 2 * len(specs)


@given(st.sampled_from(paths(MEMBER)), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_every_field_is_in_the_key(path: tuple[str, ...], change: int) -> None:
    other = changed(MEMBER, path, change)
    assert key(other) != key(MEMBER)
    assert key(changed(MEMBER, path, change)) == key(other)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(max_size=5),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.integers(), max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_the_canonical_form_loses_nothing(parts: list[Any]) -> None:
    assert json.loads(canonical(*parts)) == [3, *parts]
    assert "\n" not in canonical(*parts)


def test_the_kind_of_a_spec_and_the_place_of_a_part_are_in_the_key() -> None:
    assert key("a", "b") != key("b", "a") != key("ab")
    assert key(1) != key("1")
    assert key(ReportSpec(merge=(0.5,))) != key(ReportSpec(prune=(0.5,)))
    twin = PopulationSpec(members=3)
    assert key(twin) == key(PopulationSpec(members=3))
    assert key(ModelSpec("a", "b", 1, 1, 1)) != key(
        {"objective": "a", "architecture": "b", "num_classes": 1, "in_channels": 1, "width": 1}
    )


def test_members_that_are_left_out_are_in_the_key_of_those_that_remain() -> None:
    remaining = [RemainingSpec(**vars(MEMBER), excluded=excluded) for excluded in ((), (8,), (9,), (8, 9))]
    assert len({key(spec) for spec in (MEMBER, *remaining)}) == 5


def test_a_key_is_twenty_hexadecimal_digits() -> None:
    assert len(key(MEMBER)) == 20
    assert set(key(MEMBER)) <= set("0123456789abcdef")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_has_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        key(value)


@pytest.mark.parametrize("amount", [1.0, 1.5, -0.1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["merge", "prune", "filters", "random"])
def test_amounts_outside_the_range_are_refused(method: str, amount: float) -> None:
    with pytest.raises(InputError, match=rf"--{method} must be an amount in \[0, 1\)"):
        CompressionSpec(method, amount, "bn", "frozen")
    with pytest.raises(InputError, match=rf"--{method} must be an amount in \[0, 1\)"):
        ReportSpec(**{method: (0.5, amount)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CompressionSpec("merge", 0.5, "bm", "frozen"), "unknown repair 'bm' .did you mean 'bn'"),
        (lambda: ReportSpec(merge=(0.5,), probe=("knn", "frozen")), "give frozen or refit before it"),
        (lambda: ReportSpec(merge=(0.5,), probe=("refit", "refit")), "the same probe is given twice"),
        (lambda: ReportSpec(merge=(0.5,), probe=()), "--probe needs at least one probe"),
        (
            lambda: CompressionSpec("merge", 0.5, "bn", "refitt"),
            "unknown probe 'refitt' .did you mean 'refit'",
        ),
        (lambda: PopulationSpec(members=1), "--members must be at least 2, not 1"),
        (lambda: PopulationSpec(members=0), "--members must be at least 2, not 0"),
        (lambda: PopulationSpec(seed=-1), r"--seed must be in \[0, 4294967286\] for 10 members, not -1"),
        (lambda: PopulationSpec(seed=2**32 - 9), "--seed must be in"),
        (lambda: PopulationSpec(device="gpu"), "unknown device 'gpu' .did you mean 'cpu'"),
        (lambda: PopulationSpec(width=0), "--width must be at least 1, not 0"),
        (lambda: PopulationSpec(epochs=-3), "--epochs must be at least 1, not -3"),
        (lambda: replace(MEMBER.training, epochs=0), "epochs must be at least 1, not 0"),
        (lambda: ModelSpec("simclr", "r18", 0, 1, 16), "num_classes must be at least 1, not 0"),
        (lambda: ModelSpec("simclr", "r18", 10, 0, 16), "in_channels must be at least 1, not 0"),
        (lambda: ModelSpec("simclr", "r18", 10, 1, 0), "width must be at least 1, not 0"),
        (lambda: ReportSpec(), "nothing to compare"),
        (lambda: ReportSpec(merge=(0.5, 0.50)), "the same method and amount is given twice"),
        (lambda: ReportSpec(merge=(0.5,), repair=("bn", "none", "bn")), "the same repair is given twice"),
        (lambda: ReportSpec(merge=(0.5,), repair=()), "--repair needs at least one repair"),
        (
            lambda: ReportSpec(merge=(0.5,), prune=(0.5,), repair=("bn", "least-squares")),
            "--repair least-squares is for lost channels; it does not go with --prune",
        ),
        (
            lambda: ReportSpec(prune=(0.9, 0.90000001)),
            "two conditions would both be called 'prune 0.9': their numbers are too near",
        ),
        (lambda: ReportSpec(merge=(0.0, -0.0)), "the same method and amount is given twice"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()


def test_the_last_seed_that_fits_is_accepted() -> None:
    assert PopulationSpec(seed=2**32 - 10).seed + 9 == 2**32 - 1


def test_conditions_are_in_a_fixed_order_with_readable_titles() -> None:
    spec = ReportSpec(
        random=(0.25,), prune=(0.9, 0), merge=(0.5, 0.3), repair=("none",), probe=("refit", "knn")
    )
    assert [c.title for c in spec.conditions] == [
        "merge 0.5",
        "merge 0.3",
        "prune 0.9",
        "prune 0",
        "random 0.25",
    ]
    assert {(c.repair, c.probe) for c in spec.conditions} == {("none", "refit")}
    assert CompressionSpec("prune", 0.0, "none", "refit") == spec.conditions[3]
    assert [c.title for c in ReportSpec(merge=(-0.0,)).conditions] == ["merge 0"]


def test_every_amount_is_a_condition_under_each_repair() -> None:
    spec = ReportSpec(prune=(0.9,), merge=(0.5, 0.3), repair=("none", "bn"))
    assert [spec.title(c) for c in spec.conditions] == [
        "merge 0.5 none", "merge 0.5 bn", "merge 0.3 none", "merge 0.3 bn", "prune 0.9 none", "prune 0.9 bn",
    ]  # fmt: skip
    assert [spec.title(c).split()[2] for c in spec.conditions] == [c.repair for c in spec.conditions]
    single = ReportSpec(merge=(0.5, 0.3), repair=("none",))
    assert [single.title(c) for c in single.conditions] == ["merge 0.5", "merge 0.3"]
    assert {key(c) for c in single.conditions} < {key(c) for c in spec.conditions}  # the same work


def test_specs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        MEMBER.seed = 8  # type: ignore[misc]


# --- networks that were trained elsewhere

LOADED = LoadedSpec("resnet18", "torchvision 1.0", ("aa", "bb"), "data", 0, "cpu", 1)


def test_checkpoints_are_in_the_key_of_a_report() -> None:
    own = CheckpointSpec(("a.pt", "b.pt"), arch="resnet18", mean=(0.5,), std=(0.2,))
    assert (
        '"own":{"CheckpointSpec":{"arch":"resnet18","checkpoints":["a.pt","b.pt"],"mean":[0.5],"std":[0.2]}}'
        in canonical(ReportSpec(own=own, merge=(0.5,)))
    )


def test_all_of_a_loaded_network_is_in_its_key() -> None:
    others = {
        "architecture": "resnet34", "code": "torchvision 1.1", "tensors": ("bb", "aa"), "data": "other",
        "seed": 1, "device": "cuda", "threads": 2,
    }  # fmt: skip
    keys = {key(LOADED), *(key(replace(LOADED, **{name: value})) for name, value in others.items())}
    assert len(keys) == 1 + len(others)


def test_the_network_is_named_as_the_user_does() -> None:
    own = CheckpointSpec(("a.pt",), arch="resnet18")
    assert ReportSpec(own=own, merge=(0.5,)).network == "resnet18"
    built = PopulationSpec(model="mine:build")
    assert ReportSpec(built, CheckpointSpec(("a.pt",)), merge=(0.5,)).network == "mine:build"
    assert ReportSpec(merge=(0.5,)).network == "simclr_r18"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: CheckpointSpec(arch="resnet18"), "--arch is for networks read from files"),
        (lambda: CheckpointSpec(std=(1.0,)), "--std is for networks read from files"),
        (lambda: CheckpointSpec(("a",), mean=(0.0, 0.0), std=(1.0,)), "not 2 and 1"),
        (lambda: CheckpointSpec(("a",), mean=(float("inf"),), std=(1.0,)), "--mean must be numbers"),
        (lambda: CheckpointSpec(("a",), mean=(0.0,), std=(-1.0,)), "--std must be positive"),
        (lambda: CheckpointSpec(("a",), mean=(0.0,), std=(float("nan"),)), "--std must be positive"),
        (lambda: ReportSpec(own=CheckpointSpec(("a",)), merge=(0.5,)), "needs either --arch NAME or --model"),
        (lambda: ReportSpec(PopulationSpec(model="m:f"), merge=(0.5,)), "m:f builds one network"),
        (
            lambda: ReportSpec(
                PopulationSpec(exclude_diverged=True), CheckpointSpec(("a",), arch="resnet18"), merge=(0.5,)
            ),
            "--exclude-diverged is for networks that are trained here",
        ),
    ],
)
def test_bad_specs_of_networks_from_files(make: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        make()
