"""The models x samples axes that every other package shares: specs, samples, predictions, the store.

Nothing here imports torch, so predictions made in any framework can be analysed.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from population.errors import InputError
    from population.predictions import Predictions
    from population.samples import SampleSet
    from population.spec import CompressionSpec, ModelSpec, PopulationSpec, ReportSpec, TrainingSpec
    from population.store import Store

__all__ = [
    "CompressionSpec",
    "InputError",
    "ModelSpec",
    "PopulationSpec",
    "Predictions",
    "ReportSpec",
    "SampleSet",
    "Store",
    "TrainingSpec",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["InputError"],
        "predictions": ["Predictions"],
        "samples": ["SampleSet"],
        "spec": ["CompressionSpec", "ModelSpec", "PopulationSpec", "ReportSpec", "TrainingSpec"],
        "store": ["Store"],
    },
)
