"""The sums behind CKA, gathered batch by batch, for all pairs of layers of two networks.

Features may come in any number of batches; what is kept does not grow with them. Sums of few samples come
from Gram matrices, sums of many from one matrix of products of features:

With u the features of a sample less a fixed centre, the columns ``[u, |u|^2, 1]`` of a layer are multiplied
with those of every layer of the other network and summed over samples. Once the means are known, the
products hold all that the centred sums need, so that one pass gives the values of the full set, not those
of batches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.similarity.cka import COVARIANCE_ROUNDING, HsicSums, PairSums, centred_gram, gram_sums

GRAM_SAMPLES = 512
"""Up to this many samples, Gram matrices take less time and memory than covariances of all pairs."""


class CkaStream:
    """Gathers the features of two networks and gives the CKA of all pairs of layers on the full set.

    Memory: ``GRAM_SAMPLES`` samples of features; Gram matrices of that size per layer, or, for more
    samples, one number for each pair of features of the two networks.

    Precision: products are summed in the type of the features, float32 as a rule. Features should be
    given less a centre near their mean; a common shift changes no value, but a large one loses digits.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = []
        self._pending_samples = 0
        self._moments: _Moments | None = None

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Takes a batch.

        Args:
            first: features of each layer of the first network, shapes (b, p_l); b, but not p_l, may
                differ from batch to batch.
            second: those of the second network for the same samples, shapes (b, q_m).
        """
        self._pending.append((first, second))
        self._pending_samples += len(first[0])
        if self._pending_samples > GRAM_SAMPLES:
            self._flush()

    def sums(self) -> PairSums:
        """Returns the sums over what was added so far, at least one batch."""
        if self._moments is None:
            grams = [[centred_gram(layer) for layer in layers] for layers in self._joined()]
            return gram_sums(*grams)
        if self._pending:
            self._flush()
        return self._moments.sums()

    def _flush(self) -> None:
        first, second = self._joined()
        self._pending, self._pending_samples = [], 0
        if self._moments is None:
            self._moments = _Moments(first, second)
        self._moments.add(first, second)

    def _joined(self) -> tuple[list[Tensor], list[Tensor]]:
        """Joins the pending batches to one, layer by layer."""
        sides = [zip(*(batch[side] for batch in self._pending), strict=True) for side in (0, 1)]
        first, second = ([torch.cat(parts) for parts in side] for side in sides)
        return first, second


class _Moments:
    """Sums of products of the columns u, |u|^2 and 1 of all layers, across networks and within layers.

    The products of features across networks, by far the most, are summed in the type of the features. The
    rest is in float64: the unbiased estimator subtracts two sums that are close where few images
    dominate, and a rounded norm would count fully there.
    """

    def __init__(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        self._widths = [[layer.shape[1] for layer in layers] for layers in (first, second)]
        rows, columns = (sum(widths) for widths in self._widths)
        double = first[0].new_zeros(0, dtype=torch.float64)
        self._features = first[0].new_zeros(rows, columns)
        self._first_by_norms = double.new_zeros(rows, len(second) + 1)
        self._norms_by_second = double.new_zeros(len(first) + 1, columns)
        self._norms = double.new_zeros(len(first) + 1, len(second) + 1)
        self._own = [[double.new_zeros(w + 2, w + 2) for w in widths] for widths in self._widths]
        self._n = 0

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        second = [layer.to(self._features) for layer in second]
        u, v = torch.cat(list(first), dim=1), torch.cat(second, dim=1)
        norms_u, norms_v = _norms(first), _norms(second)
        self._n += len(u)
        self._features.addmm_(u.T, v)
        self._first_by_norms.addmm_(u.double().T, norms_v)
        self._norms_by_second.addmm_(norms_u.T, v.double())
        self._norms.addmm_(norms_u.T, norms_v)
        for layers, norms, own in zip((first, second), (norms_u, norms_v), self._own, strict=True):
            for index, (layer, block) in enumerate(zip(layers, own, strict=True)):
                columns = torch.cat([layer.double(), norms[:, [index, -1]]], dim=1)
                block.addmm_(columns.T, columns)

    def sums(self) -> PairSums:
        cross = [
            [
                _centred_sums(uv, by_norms[:, [m, -1]], by_second[[k, -1]], self._norms[[k, -1]][:, [m, -1]])
                for m, (uv, by_second) in enumerate(
                    zip(
                        torch.split(features, self._widths[1], dim=1),
                        torch.split(self._norms_by_second, self._widths[1], dim=1),
                        strict=True,
                    )
                )
            ]
            for k, (features, by_norms) in enumerate(
                zip(
                    torch.split(self._features, self._widths[0]),
                    torch.split(self._first_by_norms, self._widths[0]),
                    strict=True,
                )
            )
        ]
        own = [
            [_centred_sums(b[:-2, :-2], b[:-2, -2:], b[-2:, :-2], b[-2:, -2:]) for b in blocks]
            for blocks in self._own
        ]
        stacked = [self._stacked(values) for values in (cross, *own)]
        return PairSums(stacked[0], stacked[1], stacked[2], COVARIANCE_ROUNDING)

    def _stacked(self, values: object) -> HsicSums:
        parts = np.moveaxis(np.array(values, dtype=np.float64), -1, 0)
        return HsicSums(parts[0], parts[1], parts[2], self._n)


def _norms(layers: Sequence[Tensor]) -> Tensor:
    """Squared norm of each sample in each layer, and a column of ones; shape (b, L + 1), float64."""
    norms = [layer.double().square().sum(dim=1) for layer in layers]
    return torch.stack([*norms, torch.ones_like(norms[0])], dim=1)


def _centred_sums(uv: Tensor, u_by: Tensor, by_v: Tensor, by: Tensor) -> tuple[float, float, float]:
    """The sums of ``HsicSums`` for two layers from sums of products over samples.

    With means d of u and e of v, ``Kc_ii = |u_i|^2 - 2 u_i'd + |d|^2``; the products of two such terms
    are multiplied out.

    Args:
        uv: ``sum u_i v_i'``, shape (p, q).
        u_by: ``sum u_i [|v_i|^2, 1]``, shape (p, 2).
        by_v: ``sum [|u_i|^2, 1]' v_i'``, shape (2, q).
        by: ``sum [|u_i|^2, 1]' [|v_i|^2, 1]``, shape (2, 2).
    """
    products, n = uv.double(), by[1, 1]
    d, e = u_by[:, 1] / n, by_v[1] / n
    d2, e2 = d @ d, e @ e
    centred = products - n * torch.outer(d, e)
    trace_u, trace_v = by[0, 1] - n * d2, by[1, 0] - n * e2
    diagonal = (
        by[0, 0]
        - 2 * (by_v[0] @ e + d @ u_by[:, 0])
        + 4 * (d @ products @ e)
        + e2 * (trace_u - n * d2)
        + d2 * (trace_v - n * e2)
        + n * d2 * e2
    )
    return float(centred.square().sum()), float(diagonal), float(trace_u * trace_v)
