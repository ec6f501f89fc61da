"""Every compression method that the command line offers, in one table."""

from collections.abc import Mapping
from functools import partial

from compressors.contract import Compressor
from compressors.filters import prune_filters
from compressors.identity import keep_dense
from compressors.magnitude import prune_weights
from merging.merge import merge_channels

METHODS: Mapping[str, Compressor] = {
    "merge": merge_channels,
    "prune": prune_weights,
    "filters": prune_filters,
    "random": partial(prune_filters, norm="random"),
    "identity": keep_dense,
}
