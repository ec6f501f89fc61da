"""How much faster a merged network is than its dense one, beside what its operations promise.

``python -m benchmarks.speedup``; needs ``PIE_TEST_DATA``, as benchmarks/trained.py says. Dense and merged
networks run in turns, so that both see the same machine.
"""

import statistics
import time
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.trained import cifar10_resnet18
from merging import merge_channels

AMOUNTS = (0.25, 0.5, 0.75)
SECONDS = 6.0  # per comparison
#: What torch's operations are called here.
KINDS = {
    "aten::convolution": "convolution",
    "aten::batch_norm": "batch norm",
    "aten::relu_": "relu",
    "aten::add_": "sum",
}


def main() -> None:
    """Prints one row per amount and batch, and where the time of each network goes."""
    dense = cifar10_resnet18()
    example = torch.rand(1, 3, 32, 32)
    print(f"Trained ResNet-18, float32, {torch.get_num_threads()} threads; medians of runs in turns")
    print("| channels removed | batch | MACs, dense / merged | speed-up | of the MAC ratio | conv alone |")
    print("|---|---|---|---|---|---|")
    shares = []
    for amount in AMOUNTS:
        result = merge_channels(dense, example, amount=amount, seed=0)
        ratio = result.cost.before.macs / result.cost.after.macs
        for batch in (1, 128):
            x = torch.rand(batch, 3, 32, 32)
            slow, fast = _in_turns(dense, result.model, x)
            before, after = _by_kind(dense, x), _by_kind(result.model, x)
            conv = before["convolution"] / after["convolution"]
            print(
                f"| {amount:.0%} | {batch} | {ratio:.2f} | {slow / fast:.2f} | {slow / fast / ratio:.0%} "
                f"| {conv:.2f} |"
            )
            shares.append((amount, batch, before, after))
    print("\nMilliseconds by operation, dense -> merged:")
    for amount, batch, before, after in shares:
        parts = ", ".join(f"{kind} {before[kind]:.1f} -> {after[kind]:.1f}" for kind in before)
        print(f"{amount:.0%} removed, batch {batch}: {parts}")


def _in_turns(first: nn.Module, second: nn.Module, x: Tensor) -> tuple[float, float]:
    """Median seconds of one pass of each."""
    times: dict[int, list[float]] = defaultdict(list)
    models = (first, second)
    start = time.perf_counter()
    with torch.inference_mode():
        for model in models:
            model(x)
        while len(times[0]) < 5 or time.perf_counter() - start < SECONDS:
            for i, model in enumerate(models):
                began = time.perf_counter()
                model(x)
                times[i].append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def _by_kind(model: nn.Module, x: Tensor, passes: int = 5) -> dict[str, float]:
    """Milliseconds of one pass by kind of operation."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(passes):
            model(x)
    total: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key in KINDS:
            total[KINDS[event.key]] += event.cpu_time_total / 1000 / passes
    return dict(total)


if __name__ == "__main__":
    main()
