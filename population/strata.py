"""Images of about the same difficulty."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

#: Images of neighbouring margin that are taken for equally difficult. ``pie.overlap`` says why not more.
STRATUM = 20


def margin_strata(margin: NDArray[np.float64]) -> NDArray[np.int64]:
    """Divides images into strata of 20 of neighbouring margin; equal margins stay together.

    Args:
        margin: shape (N,).

    Returns:
        Index of each image's stratum, shape (N,), from 0.
    """
    place = rankdata(margin, method="min").astype(np.int64) - 1
    strata: NDArray[np.int64] = np.unique(place // STRATUM, return_inverse=True)[1]
    return strata
