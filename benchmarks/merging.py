"""Accuracy of trained networks after merging and pruning, per repair: ``make bench-merging``.

Every cell is appended to a table of its network in ``docs/benchmarks`` as soon as it is known, and cells
that are there are not computed again. ``benchmarks/trained.py`` says which variables have to be set.
"""

import itertools
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import tyro
from torch import Tensor, nn

from benchmarks.trained import NETWORKS, trained
from compressors import prune_filters
from compressors.identity import keep_dense
from merging import merge_channels

METHODS = {
    "dense": keep_dense,
    "merge": merge_channels,
    "merge, params": partial(merge_channels, budget="params"),
    "merge, MACs": partial(merge_channels, budget="macs"),
    "L1 filters": prune_filters,
    "random": partial(prune_filters, norm="random"),
}
#: Budgets that take as much of this as the uniform one of the same row does.
EQUAL = {"merge, params": "params", "merge, MACs": "macs"}
REPAIRS = ("none", "data-free", "bn", "least-squares")
FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
KEY = ["method", "amount", "repair", "seed", "images"]


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        networks: names.
        methods: names.
        images: number of test images.
        repairs: names.
        amounts: fractions of channels removed.
        seeds: number of seeds; means over them are shown.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    methods: tuple[str, ...] = ("merge", "merge, params", "merge, MACs", "L1 filters")
    repairs: tuple[str, ...] = REPAIRS
    images: int = 10_000
    amounts: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    seeds: int = 3


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that a model classifies right."""
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in torch.split(images, 250)])
    return float((predicted == labels).float().mean())


def measure(network: str, settings: Settings) -> None:
    """Adds the cells of one network that are missing."""
    path = FOLDER / f"merging-{network}.csv"
    for seed in range(settings.seeds):
        setting = trained(network, seed=seed, images=settings.images)
        for method, amount, repair in _cells(settings, draws_only=seed > 0 and not setting.by_seed):
            cell = dict(zip(KEY, (method, amount, repair, seed, len(setting.images)), strict=True))
            if _known(path, cell):
                continue
            if method in EQUAL:
                uniform = merge_channels(setting.model, setting.images[:1], amount=amount, seed=seed).cost
                amount = 1 - getattr(uniform.after, EQUAL[method]) / getattr(uniform.before, EQUAL[method])
            result = METHODS[method](
                setting.model, setting.images[:1], amount=amount, seed=seed,
                repair=repair, calibration=setting.calibration,
            )  # fmt: skip
            before, after = result.cost.before, result.cost.after
            row = {
                **cell,
                "params_kept": after.params / before.params,
                "macs_kept": after.macs / before.macs,
                "accuracy": accuracy(result.model, setting.images, setting.labels),
            }
            pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
            print(network, row, flush=True)


def _cells(settings: Settings, *, draws_only: bool) -> Iterator[tuple[str, float, str]]:
    """Method, amount and repair of each cell, or of those alone that depend on the seed."""
    if not draws_only:
        yield from (("dense", 0.0, repair) for repair in ("none", "bn"))
    methods = [m for m in settings.methods if m != "L1 filters" or not draws_only]
    for amount, method, repair in itertools.product(settings.amounts, methods, settings.repairs):
        yield method, amount, repair


def _known(path: Path, cell: Mapping[str, object]) -> bool:
    if not path.exists():
        return False
    table = pd.read_csv(path)
    return bool((table[list(cell)] == pd.Series(cell)).all(axis=1).any())


def write_tables() -> None:
    """Writes ``merging.md`` from all cells that are known."""
    lines = [
        "# Accuracy after merging and filter pruning, per repair",
        "",
        f"Made by `make bench-merging` on {os.cpu_count()} cores ({_processor()}), torch",
        f"{torch.__version__}, float32. Means over seeds, with the largest distance of a seed from the mean.",
        "`merge, params` and `merge, MACs` remove no fixed share of the channels of a group: they spend as",
        "many parameters, or operations, as `merge` in the same row, where it hurts least. A cell without a",
        "distance is of one seed (L1 filters draw nothing), an empty one has not been measured; data-free",
        "repair has nothing to correct in pruned filters.",
        "",
    ]
    for path in sorted(FOLDER.glob("merging-*.csv")):
        table = pd.read_csv(path)
        dense = table[table.amount == 0]
        lines += [
            f"## {path.stem.removeprefix('merging-')}",
            "",
            f"{table.images.max()} test images, seeds {table.seed.min()} to {table.seed.max()}. Dense "
            f"{_cell(dense[dense.repair == 'none'].accuracy)}, with BatchNorm re-estimated "
            f"{_cell(dense[dense.repair == 'bn'].accuracy)}.",
            "",
            "| channels removed | method | params kept | MACs kept | "
            + " | ".join(REPAIRS) + " |",
            "|---" * (4 + len(REPAIRS)) + "|",
        ]  # fmt: skip
        for (amount, method), rows in table[table.amount > 0].groupby(["amount", "method"], sort=True):
            cells = [_cell(rows[rows.repair == repair].accuracy) for repair in REPAIRS]
            kept = f"{rows.params_kept.mean():.3f} | {rows.macs_kept.mean():.3f}"
            lines.append(f"| {amount:.0%} | {method} | {kept} | {' | '.join(cells)} |")
        lines.append("")
    (FOLDER / "merging.md").write_text("\n".join(lines))


def _cell(values: "pd.Series[float]") -> str:
    if values.empty:
        return ""
    spread = float((values - values.mean()).abs().max())
    return f"{values.mean():.4f}" + (f" ± {spread:.4f}" if spread > 0 else "")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(settings: Settings) -> None:
    """Measures what is missing and writes the tables."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for network in settings.networks:
        measure(network, settings)
    write_tables()


if __name__ == "__main__":
    main(tyro.cli(Settings))
