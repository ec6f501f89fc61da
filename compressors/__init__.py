"""The contract of every compression method, the methods that merging is judged against, repairs and costs."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from compressors.apply import apply_plan
    from compressors.budget import Budget
    from compressors.contract import CompressionPlan, CompressionResult
    from compressors.filters import prune_filters
    from compressors.identity import keep_dense
    from compressors.magnitude import prune_weights
    from compressors.repair.recalibrate import recalibrate_batchnorm

__all__ = [
    "Budget",
    "CompressionPlan",
    "CompressionResult",
    "apply_plan",
    "keep_dense",
    "prune_filters",
    "prune_weights",
    "recalibrate_batchnorm",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "apply": ["apply_plan"],
        "budget": ["Budget"],
        "contract": ["CompressionPlan", "CompressionResult"],
        "filters": ["prune_filters"],
        "identity": ["keep_dense"],
        "magnitude": ["prune_weights"],
        "repair.recalibrate": ["recalibrate_batchnorm"],
    },
)
