"""Which pixels speak for a class, and how that changes: methods, their quality, and maps before and after."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from analysis.attribution.before_after import PopulationMaps, population_maps
    from analysis.attribution.integrated_gradients import integrated_gradients_maps
    from analysis.attribution.map_similarity import rank_correlation
    from analysis.attribution.methods import METHODS
    from analysis.attribution.tables import map_changes, map_quality, sensitivities

__all__ = [
    "METHODS", "PopulationMaps", "integrated_gradients_maps", "map_changes", "map_quality",
    "population_maps", "rank_correlation", "sensitivities",
]  # fmt: skip

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "before_after": ["PopulationMaps", "population_maps"],
        "integrated_gradients": ["integrated_gradients_maps"],
        "map_similarity": ["rank_correlation"],
        "methods": ["METHODS"],
        "tables": ["map_changes", "map_quality", "sensitivities"],
    },
)
