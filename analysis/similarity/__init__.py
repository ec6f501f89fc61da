"""How alike two networks represent the same images: CKA, Procrustes, RSA and nearest neighbours."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from analysis.similarity.cka import linear_cka, minibatch_linear_cka
    from analysis.similarity.layers import CkaMap, cka_maps, layer_cka, minibatch_cka_maps
    from analysis.similarity.measures import measure_map
    from analysis.similarity.neighbours import mutual_neighbours
    from analysis.similarity.procrustes import procrustes_distance, procrustes_similarity

__all__ = [
    "CkaMap", "cka_maps", "layer_cka", "linear_cka", "measure_map", "minibatch_cka_maps",
    "minibatch_linear_cka", "mutual_neighbours", "procrustes_distance", "procrustes_similarity",
]  # fmt: skip

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cka": ["linear_cka", "minibatch_linear_cka"],
        "layers": ["CkaMap", "cka_maps", "layer_cka", "minibatch_cka_maps"],
        "measures": ["measure_map"],
        "neighbours": ["mutual_neighbours"],
        "procrustes": ["procrustes_distance", "procrustes_similarity"],
    },
)
