"""Embeddings on paper: which images lie beside which."""

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from population.errors import InputError

Floats = NDArray[np.float64]

#: About the number of neighbours that an image is kept close to.
PERPLEXITY = 30.0
#: Steps of the layout.
STEPS = 500
#: Fewer images make no map.
FEWEST = 4


def embedding_map(features: Floats, *, seed: int) -> Floats:
    """Lays out embeddings in the plane by t-SNE (van der Maaten and Hinton 2008), Barnes-Hut approximated.

    Only who lies beside whom is kept. Distances between groups, their sizes and the empty space between them
    say nothing; and t-SNE may draw groups where there are none.

    Args:
        features: shape (N, D), N >= ``FEWEST``, D >= 2.
        seed: of what is left to chance after a start from the first two principal components.

    Returns:
        Shape (N, 2), of mean 0, scaled until the largest number is 1 in size. It takes one thread, so that
        equal input gives equal bits.

    Raises:
        InputError: if shapes do not fit, features are not finite, or all images have the same.
    """
    if features.ndim != 2 or len(features) < FEWEST or features.shape[1] < 2:
        raise InputError(
            f"a map needs features of shape (N, D) with N >= {FEWEST} and D >= 2, not {features.shape}"
        )
    if not np.isfinite(features).all():
        raise InputError("features must be finite")
    if not np.ptp(features, axis=0).any():
        raise InputError("all images have the same features: there is nothing to lay out")
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, max_iter=STEPS, random_state=seed, n_jobs=1)
    with threadpool_limits(limits=1):
        found = tsne.fit_transform(features).astype(np.float64)
    found -= found.mean(axis=0)
    scaled: Floats = found / np.abs(found).max()
    return scaled
