"""Models that learn with and without labels: networks, data, objectives, training, probes."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_models.datasets import ImageData, load_data
    from ssl_models.zoo import build_model

__all__ = ["ImageData", "build_model", "load_data"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"datasets": ["ImageData", "load_data"], "zoo": ["build_model"]}
)
