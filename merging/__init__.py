"""Channel merging: similar channels are clustered and become one, without retraining."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from merging.merge import merge_channels

__all__ = ["merge_channels"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"merge": ["merge_channels"]})
