import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from figures.style import FAINT, INK, looks
from figures.upset import SHOWN, plot_upset
from pie import intersections


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.9, 3.5), layout="constrained").subplots()


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "merge 0.5": [True, False, True, True],
            "_prune $x$": [False, True, True, False],
            "random 0.5": [False, False, False, True],
            "images": [30, 20, 10, 4],
        }
    )


def numbers(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_bars_have_the_sizes_of_intersections_and_sets(ax: Axes, table: pd.DataFrame) -> None:
    assert plot_upset(table, ax) is ax
    bars, _, totals = ax.child_axes
    assert [bar.get_height() for bar in bars.patches] == [30, 20, 10, 4]
    assert numbers(bars) == ["30", "20", "10", "4"]
    assert [bar.get_width() for bar in totals.patches] == [44, 30, 4]
    assert numbers(totals) == ["44", "30", "4"]
    style = looks(["merge 0.5", "_prune $x$", "random 0.5"])
    assert [to_hex(bar.get_facecolor()).upper() for bar in totals.patches] == [
        look.colour for look in style.values()
    ]


def test_a_dark_dot_stands_where_a_set_takes_part(ax: Axes, table: pd.DataFrame) -> None:
    plot_upset(table, ax)
    bars, dots, totals = ax.child_axes
    drawn = {
        to_hex(line.get_color()): set(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in dots.lines
    }
    assert drawn[INK] == {(0, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 2)}
    assert drawn[FAINT] == {(x, y) for x in range(4) for y in range(3)} - drawn[INK]
    joined = [path.vertices[:, 1].tolist() for path in dots.collections[0].get_paths()]
    assert joined == [[0, 0], [1, 1], [0, 1], [0, 2]]
    # The columns of dots stand under their bars and the rows beside theirs, the first set on top.
    assert dots.get_xlim() == bars.get_xlim()
    assert dots.get_ylim() == totals.get_ylim() == (2.5, -0.5)


def test_sets_are_named_as_they_are_called(ax: Axes, table: pd.DataFrame) -> None:
    plot_upset(table, ax)
    ax.figure.draw_without_rendering()
    names = [label.get_text().replace(r"\$", "$") for label in ax.child_axes[1].get_yticklabels()]
    assert names == ["merge 0.5", " _prune $x$", "random 0.5"]


def test_of_many_intersections_the_largest_are_drawn_and_the_others_told(ax: Axes) -> None:
    rng = np.random.default_rng(0)
    table = intersections({name: rng.random(2000) < 0.3 for name in "abcdef"})
    assert len(table) > SHOWN
    plot_upset(table, ax)
    bars, _, totals = ax.child_axes
    assert len(bars.patches) == SHOWN
    rest = table["images"].iloc[SHOWN:]
    assert numbers(bars)[-1] == f"{len(rest)} smaller ones hold {rest.sum()} images"
    # Sizes of the sets count what is not drawn, too.
    assert totals.patches[0].get_width() == table.loc[table["a"], "images"].sum()


@pytest.mark.parametrize("sets", [2, 12])
def test_nothing_reaches_beyond_the_page(ax: Axes, sets: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"a rather long name of a method {i}" for i in range(sets)]
    plot_upset(intersections({name: rng.random(300) < 0.2 for name in names}), ax)
    figure = ax.figure
    figure.draw_without_rendering()
    page = figure.get_window_extent()
    for inset in ax.child_axes:
        box = inset.get_tightbbox()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
