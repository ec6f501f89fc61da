"""``pie compare``: two files of predictions, made in any framework, make a Report. No torch here."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.recall import class_deltas, population_accuracy
from pie.identify import find_pies
from pie.side_data import SideData
from pie_report.assemble import ConditionResult, DenseResult, build_report
from pie_report.group_statistics import describe_groups, with_groups
from pie_report.report import Report
from pie_report.statistics import condition_statistics, with_side_labels
from population.errors import InputError, unknown_name
from population.predictions import Predictions

_CONDITION = "compressed"
DESIGNS: tuple[Literal["paired", "independent"], ...] = ("paired", "independent")


def load_pair(dense_path: Path, compressed_path: Path) -> tuple[Predictions, Predictions]:
    """Reads two files of predictions of the same samples.

    Returns:
        Both, with the samples in the order of the first, and with labels and class names that only
        one of them has.

    Raises:
        InputError: if a file is absent or damaged, or the samples differ.
    """
    dense = Predictions.load(dense_path)
    compressed = Predictions.load(compressed_path).align(dense.sample_id)
    label = compressed.label if dense.label is None else dense.label
    names = compressed.class_names if dense.class_names is None else dense.class_names
    sides = [
        replace(
            side,
            label=label if side.label is None else side.label,
            class_names=names if side.class_names is None else side.class_names,
        )
        for side in (dense, compressed)
    ]
    return sides[0], sides[1]


def describe_pair(
    dense: Predictions,
    compressed: Predictions,
    *,
    design: str,
    seed: int,
    side_labels: str | None = None,
    groups: pd.DataFrame | None = None,
) -> dict[str, dict[str, Any]]:
    """Sections ``spec`` and ``data`` of report.json."""
    described = describe_groups(groups, from_file=True)
    command = f"pie compare DENSE.npz COMPRESSED.npz --design {design} --seed {seed}"
    names = None if dense.class_names is None else [str(n) for n in dense.class_names]
    unknown = (
        "model", "data", "judged", "members", "seeds", "excluded_seeds", "probe", "repair", "device",
        "threads", "training", "labels",
    )  # fmt: skip
    return {
        "spec": {
            "command": "compare",
            "command_line": with_side_labels(with_groups(command, described), side_labels),
            "design": design,
            "seed": seed,
            "side_labels": side_labels,
            "groups": described,
            **dict.fromkeys(unknown),
        },
        "data": {
            "n_test": dense.n,
            "class_names": names,
            **dict.fromkeys(("n_train", "in_channels", "resolution")),
            "fingerprint": _fingerprint(dense, compressed),
        },
    }


def _fingerprint(dense: Predictions, compressed: Predictions) -> str:
    digest = hashlib.sha256()
    for side in (dense, compressed):
        digest.update("\0".join(side.sample_id).encode())
        for array in (side.predicted, side.label, side.margin, side.probabilities):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def compare(
    dense: Predictions,
    compressed: Predictions,
    *,
    design: str,
    seed: int,
    side: SideData | None = None,
    side_labels: str | None = None,
    groups: pd.DataFrame | None = None,
) -> Report:
    """Compares two populations.

    Args:
        dense: the reference.
        compressed: of the same samples.
        design: ``paired`` where model i of one came from model i of the other, else ``independent``.
        seed: of bootstrap and permutations.
        side: what else is known of the samples.
        side_labels: digest of the file it is from.
        groups: of the samples, one column per way to divide them; its index the sample ids.

    Raises:
        InputError: if the design is unknown or does not fit, the seed is negative, or one side alone has a
            single model.
    """
    chosen = next((d for d in DESIGNS if d == design), None)
    if chosen is None:
        raise unknown_name("design", design, DESIGNS)
    if seed < 0:
        raise InputError(f"--seed must not be negative, not {seed}")
    pies = find_pies(dense, compressed, design=chosen, seed=seed)
    labelled = dense.label is not None
    classes = class_deltas(dense, compressed, design=chosen, seed=seed) if labelled else None
    sections = describe_pair(
        dense, compressed, design=design, seed=seed, side_labels=side_labels, groups=groups
    )
    result = ConditionResult(
        condition=_CONDITION,
        method=None,
        amount=None,
        repair=None,
        pruning=None,
        schedule=None,
        k=compressed.k,
        calibration_images=None,
        cost=None,
        accuracy=population_accuracy(compressed, seed=seed) if labelled else None,
        pies=pies,
        classes=classes,
        statistics=condition_statistics(
            dense, compressed, pies, design=chosen, scores=None, side=side, seed=seed, groups=groups
        ),
        predictions=compressed,
        explanation=None,
        sparsity=None,
    )
    return build_report(
        spec=sections["spec"],
        data=sections["data"],
        baselines=None,
        dense=DenseResult(
            predictions=dense,
            reestimated=None,
            accuracy=population_accuracy(dense, seed=seed) if labelled else None,
            accuracy_reestimated=None,
            cost=None,
        ),
        conditions=[result],
        scores=None,
        probes=None,
        exhibits=None,
        with_models=False,
        groups=groups,
    )
