import pytest

from compressors.gradual import Window, window_of
from population.errors import InputError


def test_the_cubic_schedule_by_hand() -> None:
    # n = 4 changes of 10 steps from step 20: shares 1/4, 1/2, 3/4, 1 of the window.
    found = Window(20, 10, 4).sparsities(0.64)
    assert found == pytest.approx(
        {20: 0, 30: 0.64 * 37 / 64, 40: 0.64 * 7 / 8, 50: 0.64 * 63 / 64, 60: 0.64}, abs=1e-15
    )
    assert found[60] == 0.64


@pytest.mark.parametrize(("first", "every", "changes"), [(0, 1, 1), (0, 7, 13), (311, 62, 38)])
def test_the_schedule_against_a_loop_over_all_steps(first: int, every: int, changes: int) -> None:
    expected = {}
    for t in range(2 * (first + every * changes)):
        if first <= t <= first + changes * every and (t - first) % every == 0:
            expected[t] = 0.9 + (0 - 0.9) * (1 - (t - first) / (changes * every)) ** 3  # equation 1
    window = Window(first, every, changes)
    found = window.sparsities(0.9)
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == sorted(found)
    assert found[window.last] == 0.9
    assert list(found.values()) == sorted(found.values())


@pytest.mark.parametrize(("begin", "end", "every"), [(0.25, 0.75, 10), (0, 1, 20), (0.5, 1, None)])
def test_shares_are_steps_of_the_training(begin: float, end: float, every: int | None) -> None:
    in_steps = [b * 400 if b in (0.25, 0.75, 0.5) else 400 if b == 1 else 0 for b in (begin, end)]
    assert window_of(begin, end, every, total=400) == window_of(*in_steps, every, total=400)


def test_a_window_is_divided_into_twenty() -> None:
    assert window_of(0.25, 0.75, None, total=400) == Window(100, 10, 20)
    assert window_of(0, 1, None, total=7) == Window(0, 1, 7)
    # The last change is the last that fits in.
    assert window_of(100, 200, 30, total=400) == Window(100, 30, 3)


@pytest.mark.parametrize(
    ("begin", "end", "every", "message"),
    [
        (0.5, 0.5, None, "steps 200 to 200 of a training of 400"),
        (0.9, 100, None, "steps 360 to 100"),
        (10, 401, None, "steps 10 to 401"),
        (0.5, 0.6, 41, "--prune-every 41: the window 0.5 0.6 has 40 steps"),
    ],
)
def test_windows_that_prune_nothing_are_errors(
    begin: float, end: float, every: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        window_of(begin, end, every, total=400)
