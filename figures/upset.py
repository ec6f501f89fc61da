"""UpSet plot: how large the intersections of many sets are, where a Venn diagram would be unreadable."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from figures.style import FAINT, INK, looks, plain

SHOWN = 25
"""So many intersections are drawn, the largest; what the others hold is written beside them."""

_BARS = 0.78  # share of the width for the intersections; the sizes of the sets take what a gap leaves
_GAP = 0.03
_ROW = 0.09  # height of a set's row, as a share of the plot, up to ...
_ROWS = 0.6  # ... this share for all of them
_LABEL_SIZE = 6.5


def plot_upset(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws sets as rows, their exclusive intersections as columns of dots, and the sizes of both as bars.

    After Lex et al. 2014, IEEE Trans. Vis. Comput. Graph. 20 (12).

    Args:
        table: of ``pie.intersections``: a boolean column per set, and "images" (counts); largest first.
        ax: where to draw; it gives its place to three axes of its own.

    Returns:
        The axes. ``ax.child_axes`` are the bars of the intersections, the dots, and the bars of the sets; a
        set has the colour that its name has in the other figures.
    """
    names = [column for column in table.columns if column != "images"]
    shown, rest = table.head(SHOWN), table.iloc[SHOWN:]
    member = shown[names].to_numpy(dtype=bool)
    sizes = [int(table.loc[table[name], "images"].sum()) for name in names]
    height = min(_ROW * len(names), _ROWS)
    ax.set_axis_off()
    bars = ax.inset_axes((0, height + _GAP, _BARS, 1 - height - _GAP))
    dots = ax.inset_axes((0, 0, _BARS, height), sharex=bars)
    totals = ax.inset_axes((_BARS + _GAP, 0, 1 - _BARS - _GAP, height), sharey=dots)

    place = np.arange(len(shown))
    drawn = bars.bar(place, shown["images"], width=0.62, color=INK)
    bars.bar_label(drawn, fontsize=_LABEL_SIZE, padding=1)
    bars.set_ylabel("images in just these sets")
    bars.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bars.margins(y=0.12)
    bars.grid(visible=False, axis="x")
    bars.tick_params(axis="x", length=0, labelbottom=False)
    if len(rest):
        bars.text(
            1, 1, f"{len(rest)} smaller ones hold {rest['images'].sum()} images",
            transform=bars.transAxes, ha="right", va="top", fontsize=_LABEL_SIZE,
        )  # fmt: skip

    column, row = np.nonzero(member)
    dots.plot(*np.nonzero(~member), "o", color=FAINT, markersize=3.6)
    last = len(names) - 1 - member[:, ::-1].argmax(axis=1)
    dots.vlines(place, member.argmax(axis=1), last, color=INK, linewidth=1.2)
    dots.plot(column, row, "o", color=INK, markersize=3.6)
    dots.set_xlim(-0.6, len(shown) - 0.4)
    dots.set_ylim(len(names) - 0.5, -0.5)
    dots.set_yticks(range(len(names)), [plain(name) for name in names])
    dots.tick_params(length=0, labelbottom=False)
    dots.grid(visible=False)
    dots.spines[:].set_visible(False)

    style = looks(names)
    drawn = totals.barh(range(len(names)), sizes, height=0.62, color=[style[name].colour for name in names])
    totals.bar_label(drawn, fontsize=_LABEL_SIZE, padding=2)
    totals.margins(x=0.35)
    totals.tick_params(length=0, labelleft=False, labelbottom=False)
    totals.grid(visible=False)
    totals.spines["bottom"].set_visible(False)
    totals.set_title("images in the set", fontsize=_LABEL_SIZE)
    return ax
