"""How figures look: sizes, fonts and colours of a thesis page."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

TEXT_WIDTH = 5.9
"""Width of the text block in inches; every figure fills it, so that no font is rescaled."""

INK = "#222222"
MUTED = "#8a8a8a"
FAINT = "#dddddd"

# Okabe & Ito's colours, told apart with any kind of colour vision; their yellow is too faint on white and
# black is kept for the dense networks, so wine and indigo stand in. Shapes differ as well, for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#332288")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

KIND_COLOURS = {
    "forgotten": "#D55E00",
    "still wrong": "#b3b3b3",
    "gained": "#56B4E9",
    "label unknown": "#7a8b99",
}
"""The kinds of PIEs, in the order in which they are stacked."""

# matplotlib types this as a literal union of its keys, which a literal dict does not infer to.
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 250,
    "figure.facecolor": "white",
    # Text stays text in the PDF (TrueType), so it can be searched and edited.
    "pdf.fonttype": 42,
}


@contextmanager
def theme() -> Iterator[None]:
    """Draws what is inside in the style of this project, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


@dataclass(frozen=True)
class Look:
    """Colour and marker of one series."""

    colour: str
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Gives each distinct name a colour and a marker, in order of appearance.

    The conditions of a run appear in one order in all its tables, so one condition looks the same in
    all its figures. After eight names colours repeat, with other markers.
    """
    distinct = list(dict.fromkeys(names))
    size = len(_COLOURS)
    return {
        name: Look(_COLOURS[i % size], _MARKERS[(i + i // size) % size]) for i, name in enumerate(distinct)
    }


def plain(text: str, *, limit: int = 40) -> str:
    """Makes a name that matplotlib shows as it is: no formulas, no name hidden from the legend.

    Args:
        text: any name.
        limit: longer names are cut to this many characters, the last one an ellipsis.

    Returns:
        The text with dollar signs escaped, as matplotlib would set what is between two as a formula,
        and a space before a leading underscore, which would keep it out of legends.
    """
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")
