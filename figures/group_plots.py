"""Plots of groups of images: who pays. See ``figures.plots``."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from figures.style import INK, MUTED, plain

_BEYOND = "#D55E00"


def plot_group_change(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the change of accuracy of every group under one condition, a row per group.

    Args:
        table: columns grouping, group, change, change_low, change_high (intervals over networks; missing for
            single ones), whole (the change over all images), beyond (whether both tests stay at or below
            0.05); fractions, one row per group.
        ax: where to draw.

    Returns:
        The axes. The dashed line is the change over all images.
    """
    _rows(table, ax, ("change", "change_low", "change_high"))
    ax.axvline(0, color="#555555", linewidth=0.7, zorder=1.5)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}".replace("-", "−")))
    ax.set_xlabel("change of accuracy (points)")
    return ax


def plot_group_pies(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the share of PIEs of every group under one condition, a row per group.

    Args:
        table: columns grouping, group, share, share_low, share_high (intervals over images), whole (the
            share among all images), beyond (whether the test stays at or below 0.05); fractions.
        ax: where to draw.

    Returns:
        The axes. The dashed line is the share among all images.
    """
    _rows(table, ax, ("share", "share_low", "share_high"))
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.set_xlabel("PIEs among the images of the group")
    return ax


def _rows(table: pd.DataFrame, ax: Axes, names: tuple[str, str, str]) -> None:
    """A point with its interval in every row, and a line between groupings."""
    position = np.arange(len(table))
    beyond = table["beyond"].to_numpy(dtype=bool)
    value, low, high = (table[name].to_numpy(dtype=float) for name in names)
    ax.axvline(table["whole"].iloc[0], color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="all images")
    for chosen, colour, fill, label in (
        (~beyond, MUTED, "white", "not beyond chance"),
        (beyond, _BEYOND, _BEYOND, "beyond chance (p ≤ 0.05, corrected)"),
    ):
        ax.hlines(position[chosen], low[chosen], high[chosen], color=colour, linewidth=1.1)
        ax.plot(
            value[chosen],
            position[chosen],
            "o",
            color=colour,
            markerfacecolor=fill,
            markersize=4.0,
            markeredgewidth=0.8,
            label=label,
        )
    grouping = table["grouping"].to_numpy(dtype=str)
    for row in np.flatnonzero(grouping[1:] != grouping[:-1]):
        ax.axhline(row + 0.5, color="#cccccc", linewidth=0.6)
    named = (f"{g}: {n}" if " × " not in g else n for g, n in zip(grouping, table["group"], strict=True))
    ax.set_yticks(position, [plain(name, limit=32) for name in named])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(4))
