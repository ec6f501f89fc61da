"""Which images a population of models forgets, and how many of them a change of seeds alone would give."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pie.identify import PieTable, find_pies

__all__ = ["PieTable", "find_pies"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"identify": ["PieTable", "find_pies"]})
