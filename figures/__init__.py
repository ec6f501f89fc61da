"""Figures for a thesis and a gallery of forgotten images, drawn from the tables of a run."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from figures.plots import plot_accuracy_cost, plot_cka, plot_class_change, plot_pies
    from figures.thesis import FIGURES, ThesisFigure, draw_figures
    from figures.upset import plot_upset

__all__ = [
    "FIGURES",
    "ThesisFigure",
    "draw_figures",
    "plot_accuracy_cost",
    "plot_cka",
    "plot_class_change",
    "plot_pies",
    "plot_upset",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "plots": ["plot_accuracy_cost", "plot_cka", "plot_class_change", "plot_pies"],
        "thesis": ["FIGURES", "ThesisFigure", "draw_figures"],
        "upset": ["plot_upset"],
    },
)
