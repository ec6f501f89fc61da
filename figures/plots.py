"""Plots: each takes one prepared table and one axes, draws, and gives the axes back.

Nothing is computed here but positions on the paper. Artists carry labels for a legend that the caller
places. All rates in the tables are fractions; axes show them in percent or percentage points.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from figures.style import FAINT, INK, KIND_COLOURS, MUTED, looks, plain

NAMED_CLASSES = 25
"""Up to this many classes get a named row each in ``plot_class_change``."""

DENSE_METHODS = ("dense", "identity")
"""Methods in the summary table that are no compression: the networks as trained, and re-estimated."""

_LABEL_SIZE = 7.5


def plot_accuracy_cost(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws accuracy against the share of parameters kept, one point per condition.

    Args:
        table: columns condition, method, params_kept, accuracy, accuracy_low, accuracy_high (fractions).
            Rows of method "dense" and "identity" become horizontal lines, the first with its interval.
        ax: where to draw.

    Returns:
        The axes. Points of one method share a marker and are joined; colours are those of the
        conditions in the other figures.
    """
    is_dense = table["method"].isin(DENSE_METHODS)
    for (_, row), dash in zip(table[is_dense].iterrows(), ("-", (0, (2, 1.5))), strict=False):
        ax.axhline(row["accuracy"], color=INK, linewidth=0.9, linestyle=dash, label=plain(row["condition"]))
        if row["method"] == "dense" and pd.notna(row["accuracy_low"]):
            ax.axhspan(row["accuracy_low"], row["accuracy_high"], color=FAINT, linewidth=0, zorder=0.5)
    shown = table[~is_dense]
    colours, markers = looks(shown["condition"]), looks(shown["method"])
    for method, rows in shown.groupby("method", sort=False):
        line = rows.sort_values("params_kept", kind="stable")
        ax.plot(line["params_kept"], line["accuracy"], color=MUTED, linewidth=0.7, zorder=2)
        for _, row in rows.iterrows():
            colour, marker = colours[row["condition"]].colour, markers[str(method)].marker
            ax.vlines(
                row["params_kept"], row["accuracy_low"], row["accuracy_high"], color=colour, linewidth=1.2
            )
            ax.plot(
                row["params_kept"],
                row["accuracy"],
                marker,
                color=colour,
                markersize=6,
                markeredgecolor="white",
            )
    ax.set_xlim(0, max(1.0, shown["params_kept"].max()) * 1.03)
    ax.margins(y=0.1)
    _name_points(ax, shown)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel("parameters kept")
    ax.set_ylabel("accuracy")
    return ax


def plot_fair_curves(table: pd.DataFrame, ax: Axes, *, kept: str) -> Axes:
    """Draws the flips of each method against what it keeps, one line per method.

    Args:
        table: columns method, amount, kept, flips (means over members, fractions), flips_sd (standard
            deviation over members, missing for a single one).
        ax: where to draw.
        kept: what ``kept`` is, in words.

    Returns:
        The axes; bars are one standard deviation. Amount 0, where the lines begin, are the dense networks.
    """
    style = looks(table["method"])
    for method, rows in table.groupby("method", sort=False):
        line, look = rows.sort_values("amount", kind="stable"), style[str(method)]
        ax.errorbar(
            line["kept"],
            line["flips"],
            yerr=line["flips_sd"].fillna(0),
            color=look.colour,
            marker=look.marker,
            markersize=4.5,
            markeredgecolor="white",
            elinewidth=1.0,
            label=plain(str(method)),
        )
    ax.margins(x=0.04, y=0.1)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(kept)
    ax.set_ylabel("flips")
    return ax


def plot_class_change(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the change of every class's recall under one condition, with its interval.

    With few classes each has a named row, in the order of the table. With more than ``NAMED_CLASSES`` they
    are sorted by change along the x axis, and the largest losses are named.

    Args:
        table: columns name, delta, delta_low, delta_high (fractions), p_adjusted; one row per class.
        ax: where to draw.

    Returns:
        The axes. Filled, coloured points are changes with ``p_adjusted <= 0.05``; the dashed line is the
        mean change over classes. Where nothing was tested, there are points alone.
    """
    rows = len(table) <= NAMED_CLASSES
    drawn = table if rows else table.sort_values("delta", kind="stable")
    position = np.arange(len(drawn))
    significant = (drawn["p_adjusted"] <= 0.05).to_numpy(dtype=bool)
    size = 4.0 if rows else max(1.2, 3.2 - len(drawn) / 100)
    reference = ax.axvline if rows else ax.axhline
    reference(0, color="#555555", linewidth=0.7, zorder=1.5)
    reference(
        drawn["delta"].mean(), color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="mean over classes"
    )
    for chosen, colour, fill, label in (
        (~significant, MUTED, "white", "not beyond chance" if drawn["p_adjusted"].notna().any() else None),
        (significant, "#D55E00", "#D55E00", "beyond chance (adjusted p ≤ 0.05)"),
    ):
        part, at = drawn[chosen], position[chosen]
        bars = ax.hlines if rows else ax.vlines
        bars(at, part["delta_low"], part["delta_high"], color=colour, linewidth=1.1 if rows else 0.6)
        points = (part["delta"], at) if rows else (at, part["delta"])
        ax.plot(
            *points,
            "o",
            color=colour,
            markerfacecolor=fill,
            markersize=size,
            markeredgewidth=0.8,
            label=label,
        )
    percentage_points = FuncFormatter(lambda value, _: _points(value))
    if rows:
        ax.set_yticks(position, [plain(name, limit=24) for name in drawn["name"].astype(str)])
        ax.set_ylim(len(drawn) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(percentage_points)
        ax.set_xlabel("change of recall (points)")
    else:
        ax.set_xlim(-0.02 * len(drawn), 1.02 * len(drawn))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(percentage_points)
        ax.set_xlabel("classes, sorted by change")
        ax.set_ylabel("change of recall (points)")
        _name_largest_losses(ax, drawn)
    return ax


def plot_pies(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the number of PIEs per condition, stacked by kind, with the seed noise beside it.

    Args:
        table: columns condition, forgotten, "still wrong", gained, "label unknown" (counts that add up to
            pies), pies, pie_share (fraction), expected_null, expected_null_low, expected_null_high (counts;
            missing for single networks).
        ax: where to draw.

    Returns:
        The axes, one bar per condition from the top.
    """
    position = np.arange(len(table))
    left = np.zeros(len(table))
    for kind, colour in KIND_COLOURS.items():
        width = table[kind].to_numpy(dtype=float)
        if width.any():
            ax.barh(
                position,
                width,
                left=left,
                height=0.62,
                color=colour,
                edgecolor="white",
                linewidth=0.5,
                label=kind,
            )
        left = left + width
    noise, low, high = (table[f"expected_null{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    ax.hlines(position, low, high, color=INK, linewidth=1.2, zorder=3)
    if np.isfinite(noise).any():
        ax.plot(
            noise,
            position,
            "D",
            color=INK,
            markersize=4.2,
            markeredgecolor="white",
            zorder=4,
            label="seed noise, with its interval",
        )
    ends = np.fmax(left, np.fmax(noise, high))
    for end, at, count, share in zip(ends, position, table["pies"], table["pie_share"], strict=True):
        text = f"{count:.0f}" if np.isnan(share) else f"{count:.0f} ({share:.1%})"
        ax.annotate(
            text, (end, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=_LABEL_SIZE
        )
    # Room for the numbers at the ends of the bars.
    ax.set_xlim(0, max(1.0, ends.max()) * 1.18)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_yticks(position, [plain(name) for name in table["condition"].astype(str)])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    single = not np.isfinite(noise).any()
    ax.set_xlabel("images whose label changes" if single else "PIEs: images whose modal label changes")
    return ax


def plot_across(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the share of PIEs of several populations under the same conditions, beside their seed noise.

    Args:
        table: columns run, condition, pie_share, null_share, null_low, null_high (fractions of the images).
        ax: where to draw.

    Returns:
        The axes: one row per condition from the top, in it one line per run. A filled point is the share of
        PIEs, the bar the interval of the seed noise.
    """
    styles = looks(table["run"])
    conditions = list(dict.fromkeys(table["condition"]))
    gap = 0.7 / len(styles)
    for place, (run, look) in enumerate(styles.items()):
        rows = table[table["run"] == run]
        y = np.array([conditions.index(c) for c in rows["condition"]]) + gap * (place - (len(styles) - 1) / 2)
        ax.hlines(y, rows["null_low"], rows["null_high"], color=look.colour, linewidth=3, alpha=0.35)
        ax.plot(rows["null_share"], y, "|", color=look.colour, markersize=5)
        ax.plot(
            rows["pie_share"], y, look.marker, color=look.colour, markersize=5, markeredgecolor="white",
            label=plain(str(run)),
        )  # fmt: skip
    ax.plot([], [], "|-", color=MUTED, linewidth=3, alpha=0.6, label="seed noise (95%)")
    ax.set_yticks(range(len(conditions)), [plain(str(c)) for c in conditions])
    ax.set_ylim(len(conditions) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.set_xlabel("images that are PIEs")
    return ax


def plot_sparsity(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws how many weights were zero while networks trained, one line of steps per condition.

    Args:
        table: columns condition, share (of the training, a fraction) and sparsity (a fraction), by share.
        ax: where to draw.

    Returns:
        The axes.
    """
    colours = looks(table["condition"])
    for condition, rows in table.groupby("condition", sort=False):
        look = colours[str(condition)]
        ax.step(rows["share"], rows["sparsity"], where="post", color=look.colour, label=plain(str(condition)))
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    ax.set_xlabel("training done")
    ax.set_ylabel("weights that are zero")
    return ax


def plot_cka(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the similarity to the dense network, layer by layer, one line per condition.

    Args:
        table: columns condition, layer (in forward order), value, reference (linear CKA).
        ax: where to draw.

    Returns:
        The axes. Dashed: dense against dense of another seed; in the colour of the condition where the
        conditions have different references.
    """
    names = {name: plain(name) for name in dict.fromkeys(table["condition"])}
    shown = table.assign(
        condition=table["condition"].map(names), layer=[plain(name) for name in table["layer"].astype(str)]
    )
    style = looks(shown["condition"])
    sns.lineplot(
        shown,
        x="layer",
        y="value",
        hue="condition",
        style="condition",
        dashes=False,
        errorbar=None,
        palette={name: look.colour for name, look in style.items()},
        markers={name: look.marker for name, look in style.items()},
        markersize=5,
        ax=ax,
    )
    own_legend = ax.get_legend()
    if own_legend is not None:
        own_legend.remove()
    known = shown.dropna(subset="reference")
    curves = {
        name: tuple(known.loc[known["condition"] == name, ["layer", "reference"]].itertuples(index=False))
        for name in dict.fromkeys(known["condition"])
    }
    shared = len(set(curves.values())) == 1
    for name, curve in list(curves.items())[: 1 if shared else None]:
        ax.plot(
            [row.layer for row in curve],
            [row.reference for row in curve],
            color=INK if shared else style[name].colour,
            linewidth=1.1,
            linestyle=(0, (4, 2)),
            label="dense against another seed" + ("" if shared else f" ({name.strip()})"),
            zorder=1.8,
        )
    if shown["layer"].nunique() > 6:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    ax.set_xlabel("layer, from input to output")
    ax.set_ylabel("linear CKA with the dense network")
    return ax


def plot_cka_map(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws the similarity of every dense layer with every compressed layer under one condition.

    Args:
        table: columns layer_dense, layer_compressed (both in forward order), value (linear CKA); one row
            per pair.
        ax: where to draw.

    Returns:
        The axes: input at the lower left, a light cell for each pair that is alike.
    """
    layers = list(dict.fromkeys(table["layer_dense"]))
    values = table["value"].to_numpy(dtype=np.float64).reshape(len(layers), -1)
    picture = ax.imshow(values, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto")
    colours = ax.figure.colorbar(picture, ax=ax, shrink=0.8)
    colours.outline.set_visible(False)
    names = [plain(name, limit=16) for name in layers]
    ax.set_xticks(range(values.shape[1]), names, rotation=90)
    ax.set_yticks(range(len(layers)), names)
    ax.grid(visible=False)
    ax.set_xlabel("layer of the compressed network")
    ax.set_ylabel("layer of the dense network")
    return ax


def plot_embedding_map(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws images where the layout puts them, coloured by class, and marks the PIEs of one condition.

    Args:
        table: columns x, y, class, kind (of the PIE; empty for other images).
        ax: where to draw.

    Returns:
        The axes, which have no scale, as distances say nothing. Classes are named at the median of their
        images, up to ``NAMED_CLASSES`` of them.
    """
    names = sorted(set(table["class"]))
    colours = dict(zip(names, sns.husl_palette(len(names), s=0.55, l=0.72), strict=True))
    ax.scatter(
        table["x"], table["y"], s=5, c=[colours[name] for name in table["class"]], alpha=0.7, linewidths=0
    )
    for kind, colour in KIND_COLOURS.items():
        rows = table[table["kind"] == kind]
        if len(rows):
            ax.scatter(
                rows["x"], rows["y"], s=16, color=colour, edgecolors=INK, linewidths=0.5, label=kind, zorder=3
            )  # fmt: skip
    for name, rows in table.groupby("class") if len(names) <= NAMED_CLASSES else ():
        at = (rows["x"].median(), rows["y"].median())
        ax.annotate(
            plain(str(name), limit=12), at, fontsize=_LABEL_SIZE, ha="center", va="center", zorder=4,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    ax.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06), xticks=[], yticks=[], aspect="equal")
    return ax


MAP_TILES = {"image": "image", "dense": "dense", "compressed": "compressed", "other_seed": "another seed"}
"""Columns of the pictures, and what is written beside them, from the top."""


def plot_map_pictures(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draws a few images and their attribution maps under one condition, an image per column.

    Args:
        table: columns sample_id, row, column (pixels), image (brightness, 0 to 1), dense, compressed,
            other_seed (signed attributions; missing where there is no such network); the pixels of an image
            in reading order.
        ax: where to draw.

    Returns:
        The axes. Green pixels speak for the class, purple ones against it; every map has a scale of
        its own, whose end is the 99th percentile of the absolute values.
    """
    pictures = [rows for _, rows in table.groupby("sample_id", sort=False)]
    tiles = {name: text for name, text in MAP_TILES.items() if table[name].notna().any()}
    for place, rows in enumerate(pictures):
        shape = (int(rows["row"].max()) + 1, int(rows["column"].max()) + 1)
        for line, name in enumerate(tiles):
            if rows[name].isna().any():
                continue
            values = rows[name].to_numpy(dtype=np.float64).reshape(shape)
            extent = (place + 0.03, place + 0.97, line + 0.97, line + 0.03)
            if name == "image":
                ax.imshow(values, extent=extent, cmap="gray", vmin=0, vmax=1)
            else:
                size = float(np.percentile(np.abs(values), 99)) or 1.0
                ax.imshow(values, extent=extent, cmap="PRGn", vmin=-size, vmax=size)
    # Panels share their axes: the widest one counts.
    ax.set_xlim(0, max(ax.get_xlim()[1], len(pictures)))
    ax.set_ylim(len(tiles), 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([line + 0.5 for line in range(len(tiles))], list(tiles.values()))
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def _points(change: float) -> str:
    """Writes a fraction as signed percentage points, with a true minus sign."""
    return f"{100 * change:+.3g}".replace("-", "−") if change else "0"


def _name_largest_losses(ax: Axes, drawn: pd.DataFrame) -> None:
    worst = drawn[drawn["delta"] < 0].head(3)
    if len(worst) == 0:
        return
    lines = [
        f"{plain(str(name), limit=22)}  {_points(delta)}"
        for name, delta in zip(worst["name"], worst["delta"], strict=True)
    ]
    ax.text(
        0.98,
        0.04,
        "\n".join(["largest losses", *lines]),
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize=6.5,
        linespacing=1.25,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )


def _name_points(ax: Axes, shown: pd.DataFrame) -> None:
    """Writes each condition's name beside its point, where it hides no other point or name.

    Text sizes are estimated from the number of letters, so that the result does not depend on a renderer.
    """
    scale = 72 / ax.figure.dpi

    def on_paper(values: pd.Series) -> NDArray[np.float64]:
        return scale * ax.transData.transform(np.column_stack([shown["params_kept"], values]))

    points = on_paper(shown["accuracy"])
    lows = on_paper(shown["accuracy_low"].fillna(shown["accuracy"]))
    highs = on_paper(shown["accuracy_high"].fillna(shown["accuracy"]))
    taken = [
        (x - 4, min(y, low) - 2, x + 4, max(y, high) + 2)
        for (x, y), low, high in zip(points, lows[:, 1], highs[:, 1], strict=True)
    ]
    left, bottom, right, top = scale * ax.get_window_extent().get_points().ravel()
    frame = (left, bottom, right, top)
    for (x, y), (_, row) in zip(points, shown.iterrows(), strict=True):
        text = plain(str(row["condition"]), limit=24)
        width, height = 0.52 * _LABEL_SIZE * len(text), 1.2 * _LABEL_SIZE

        def cost(
            offset: tuple[float, float], x: float = x, y: float = y, w: float = width, h: float = height
        ) -> float:
            box = _text_box(x, y, offset, w, h)
            outside = _area(box) - _overlap(box, frame)
            return 3 * outside + sum(_overlap(box, other) for other in taken) + abs(offset[1])

        best = min(_OFFSETS, key=cost)
        taken.append(_text_box(x, y, best, width, height))
        ax.annotate(
            text,
            (row["params_kept"], row["accuracy"]),
            xytext=best,
            textcoords="offset points",
            ha="left" if best[0] > 0 else "right",
            va="center",
            fontsize=_LABEL_SIZE,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
            if abs(best[1]) > 8
            else None,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.4},
        )


# Tried in this order: beside the point, then further up and down, right before left.
_OFFSETS = [
    (side * 8.0, dy) for dy in (0.0, 8.0, -8.0, 16.0, -16.0, 24.0, -24.0, 33.0, -33.0) for side in (1, -1)
]

_Box = tuple[float, float, float, float]


def _text_box(x: float, y: float, offset: tuple[float, float], width: float, height: float) -> _Box:
    left = x + offset[0] - (0 if offset[0] > 0 else width)
    middle = y + offset[1]
    return (left, middle - height / 2, left + width, middle + height / 2)


def _area(box: _Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: _Box, b: _Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
