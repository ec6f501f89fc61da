"""What compression changes besides the accuracy: recall per class, representations, explanations."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from analysis.attribution.integrated_gradients import integrated_gradients_maps
    from analysis.recall import ClassDeltas, class_deltas
    from analysis.similarity.cka import linear_cka
    from analysis.similarity.layers import layer_cka

__all__ = ["ClassDeltas", "class_deltas", "integrated_gradients_maps", "layer_cka", "linear_cka"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution.integrated_gradients": ["integrated_gradients_maps"],
        "recall": ["ClassDeltas", "class_deltas"],
        "similarity.cka": ["linear_cka"],
        "similarity.layers": ["layer_cka"],
    },
)
