"""Which images a population of models forgets, and how many of them a change of seeds alone would give."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pie.divergence import Divergence, mean_divergence
    from pie.effects import layout_effects
    from pie.exemplars import Exemplars, find_exemplars
    from pie.flips import Flips, find_flips
    from pie.identify import PieTable, find_pies
    from pie.overlap import intersections, pairwise_overlap
    from pie.rarefaction import KNeeded, Rarefaction, k_needed, rarefy

__all__ = [
    "Divergence",
    "Exemplars",
    "Flips",
    "KNeeded",
    "PieTable",
    "Rarefaction",
    "find_exemplars",
    "find_flips",
    "find_pies",
    "intersections",
    "k_needed",
    "layout_effects",
    "mean_divergence",
    "pairwise_overlap",
    "rarefy",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "divergence": ["Divergence", "mean_divergence"],
        "effects": ["layout_effects"],
        "exemplars": ["Exemplars", "find_exemplars"],
        "flips": ["Flips", "find_flips"],
        "identify": ["PieTable", "find_pies"],
        "overlap": ["intersections", "pairwise_overlap"],
        "rarefaction": ["KNeeded", "Rarefaction", "k_needed", "rarefy"],
    },
)
