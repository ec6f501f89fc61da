"""How long merging takes, per repair, tracing and trials included: ``python -m benchmarks.folding``.

``benchmarks/trained.py`` says which variables have to be set.
"""

import time

import torch

from benchmarks.trained import trained
from merging import merge_channels

AMOUNTS = (0.1, 0.25, 0.5, 0.75)
#: Per repair, how often it is timed; the least time counts.
REPEATS = {"none": 3, "data-free": 3, "bn": 1, "least-squares": 1}


def main() -> None:
    """Prints one row per amount."""
    setting = trained("resnet18", seed=0, images=1)
    merge_channels(setting.model, setting.images, amount=0.5, seed=0)  # what torch does once
    print(f"Trained ResNet-18, {torch.get_num_threads()} threads; seconds")
    print("| channels removed | " + " | ".join(REPEATS) + " |")
    print("|---" * (1 + len(REPEATS)) + "|")
    for amount in AMOUNTS:
        cells = []
        for repair, repeats in REPEATS.items():
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                merge_channels(
                    setting.model, setting.images, amount=amount, seed=0,
                    repair=repair, calibration=setting.calibration,
                )  # fmt: skip
                times.append(time.perf_counter() - start)
            cells.append(f"{min(times):.2f}")
        print(f"| {amount:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
