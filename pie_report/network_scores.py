"""Scores of difficulty that predictions are not enough for: of every member through the store, then the mean.

A score that needs the dense networks is an entry of ``SCORES``; ``pie.difficulty`` judges its column like any
other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis.depth import label_depth, prediction_depth
from analysis.q_score import q_score_corti, q_score_kalibhat, varying
from pie.scores import forgetting_events, memorisation
from pie_report.members import Population, layers_of
from pie_report.trained import TrainedMembers
from population.predictions import Predictions
from population.spec import key
from ssl_models.predict import batches
from ssl_models.probe import extract_features

Floats = NDArray[np.float64]

#: Prediction depth is the mean over so many members, the first; a published study of PIEs averages 5 too.
DEPTH_MEMBERS = 5
#: Most labelled training images that its probes choose neighbours from, drawn with the member's seed.
DEPTH_IMAGES = 10_000
#: Neighbours that vote; where there are fewer labelled images for each class, so many.
DEPTH_NEIGHBOURS = 30
#: Q-scores are the mean over so many members.
Q_MEMBERS = 5
_BATCH = 256


@dataclass(frozen=True)
class NetworkScore:
    """What one look at a dense member says of every image.

    Attributes:
        columns: names of the scores, which ``pie_report.statistics.NETWORK_SCORES`` lists.
        members: most members that are looked at, the first ones; None for all.
        settings: all that the values depend on beside the member, for keys.
        compute: population and index of a member to the columns, each of shape (N,), NaN where an image has
            no value.
        applies: whether the members of a population can have it.
    """

    columns: tuple[str, ...]
    members: int | None
    settings: tuple[Any, ...]
    compute: Callable[[Population, int], Mapping[str, Floats]]
    applies: Callable[[Population], bool] = lambda _population: True

    def of_member(self, population: Population, index: int) -> dict[str, Floats]:
        """The columns of one member, from the store or computed now."""

        def produce(folder: Path) -> None:
            columns: dict[str, Any] = dict(self.compute(population, index))
            np.savez(folder / "scores.npz", **columns)

        entry = population.store.once("scores", self._key(population, index), produce)
        with np.load(entry / "scores.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in self.columns}

    def count(self, population: Population) -> int:
        """Number of members that are looked at."""
        return population.k if self.members is None else min(population.k, self.members)

    def is_stored(self, population: Population, index: int) -> bool:
        """Whether nothing is left to compute of this member."""
        return index >= self.count(population) or population.store.has("scores", self._key(population, index))

    def _key(self, population: Population, index: int) -> str:
        return key(population.spec(index), list(self.columns), list(self.settings))


def _depths(population: Population, index: int) -> dict[str, Floats]:
    images, labels = population.labelled_images(index)
    drawn = np.random.default_rng(population.seeds[index]).permutation(len(images))[:DEPTH_IMAGES]
    drawn.sort()
    network = population.dense(index)
    # Images are bytes until a batch of them is looked at.
    network.register_forward_pre_hook(lambda _module, inputs: next(batches(*inputs)))
    found = prediction_depth(
        network,
        images[drawn],
        labels[drawn],
        population.test_images,
        list(layers_of(population).values()),
        k=min(DEPTH_NEIGHBOURS, max(1, len(drawn) // population.data.num_classes)),
        batch_size=_BATCH,
        seed=population.seeds[index],
    )
    by_label = label_depth(found.probes, population.data.test.samples.label)
    return {"prediction_depth": found.depth.astype(np.float64), "label_depth": by_label.astype(np.float64)}


def _concentration(population: Population, index: int) -> dict[str, Floats]:
    features = torch.from_numpy(extract_features(population.dense(index), population.test_images))
    known, scores = varying(features), (q_score_corti, q_score_kalibhat)
    found = np.full((len(scores), len(features)), np.nan)
    if known.any():
        found[:, known.numpy()] = [score(features[known]).numpy() for score in scores]
    return {score.__name__: row for score, row in zip(scores, found, strict=True)}


def _has_head(population: Population) -> bool:
    return population.source.has_head


def _forgotten(population: Population, index: int) -> dict[str, Floats]:
    source = cast("TrainedMembers", population.source)
    rows, events = source.learnt_from(index), np.full(len(population.data.train.samples), np.nan)
    events[slice(None) if rows is None else rows] = forgetting_events(source.recorded(index))
    return {"forgetting_events": events}


def _is_recorded(population: Population) -> bool:
    return isinstance(population.source, TrainedMembers) and population.source.first.training.forgetting


SCORES: tuple[NetworkScore, ...] = (
    NetworkScore(
        columns=("prediction_depth", "label_depth"),
        members=DEPTH_MEMBERS,
        settings=(DEPTH_IMAGES, DEPTH_NEIGHBOURS, _BATCH),
        compute=_depths,
    ),
    NetworkScore(
        columns=("q_score_corti", "q_score_kalibhat"),
        members=Q_MEMBERS,
        settings=(),
        compute=_concentration,
        applies=_has_head,
    ),
    NetworkScore(
        columns=("forgetting_events",),
        members=None,
        settings=(),
        compute=_forgotten,
        applies=_is_recorded,
    ),
)


def _scores_of(population: Population) -> list[NetworkScore]:
    return [score for score in SCORES if score.applies(population)]


def compute_scores(population: Population, index: int) -> None:
    """Stores every score of a member that is not stored yet."""
    for score in _scores_of(population):
        if not score.is_stored(population, index):
            score.of_member(population, index)


def has_scores(population: Population, index: int) -> bool:
    """Whether every score of a member is stored."""
    return all(score.is_stored(population, index) for score in _scores_of(population))


def score_table(population: Population, dense: Predictions) -> pd.DataFrame:
    """Every score of ``SCORES``, mean over the members that have it, and the memorisation where it is known.

    Images are memorised by networks that learnt from a share of the training images, where these are the
    images that are compared.

    Args:
        population: the models.
        dense: what they say.

    Returns:
        One row per compared image, whose index is ``sample_id``, and a column per score, NaN where an image
        has no value.
    """
    columns: dict[str, Floats] = {}
    for score in _scores_of(population):
        found = [score.of_member(population, i) for i in range(score.count(population))]
        columns |= {name: _known_mean(np.stack([f[name] for f in found])) for name in score.columns}
    if population.member.judged == "train":
        columns |= _memorisation(population, dense)
    return pd.DataFrame(columns, index=pd.Index(dense.sample_id, name="sample_id"))


def _memorisation(population: Population, dense: Predictions) -> dict[str, Floats]:
    drawn = [population.source.learnt_from(i) for i in range(population.k)]
    masks = [np.isin(np.arange(dense.n), rows) for rows in drawn if rows is not None]
    if not masks:
        return {}
    found = memorisation(dense, np.stack(masks))["memorisation"]
    return {"memorisation": found.to_numpy(dtype=np.float64, na_value=np.nan)}


def _known_mean(values: Floats) -> Floats:
    """Mean over members of the numbers that there are; NaN where there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
