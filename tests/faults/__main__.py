"""Faults that a population run has to survive: ``python tests/faults [NAME ...]``; see docs/faults.md."""

import os
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from faults import FAULTS, Fault, Round, Undisturbed, reason_not_to_mount, undisturbed

SEED = 0
#: Rounds at a time.
SIDE_BY_SIDE = 2


def main() -> int:
    unknown = set(sys.argv[1:]) - FAULTS.keys()
    if unknown:
        print(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        return 2
    # A run hears Ctrl-C even where this program was started in the background, deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lines, failed = ["| fault | rounds | checked | seconds |", "|---|---|---|---|"], 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reason = reason_not_to_mount(root / "mount")
        truth = undisturbed(root / "undisturbed")
        for index, (name, fault) in enumerate(FAULTS.items()):
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            began = time.monotonic()
            if fault.needs_mounts and reason:
                rounds, outcome = "0", f"skipped: {reason}"
            else:
                wrong = run_rounds(fault, truth, root / name, index)
                failed += wrong
                rounds = str(len(fault.rounds))
                outcome = f"FAILED in {wrong}" if wrong else fault.checked
            lines.append(f"| {fault.title} | {rounds} | {outcome} | {time.monotonic() - began:.0f} |")
            print(lines[-1], flush=True)
    print(f"\n{os.cpu_count()} cores, one undisturbed run {truth.seconds:.0f} s\n")
    print("\n".join(lines))
    return 1 if failed else 0


def run_rounds(fault: Fault, truth: Undisturbed, folder: Path, index: int) -> int:
    """Number of rounds that failed; why is printed."""
    folder.mkdir()

    def run(number: int, act: Round) -> bool:
        try:
            act(truth, folder / str(number), np.random.default_rng([SEED, index, number]))
        except Exception:
            print(f"{folder.name}, round {number}:\n{traceback.format_exc()}", flush=True)
            return True
        return False

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return sum(pool.map(run, range(len(fault.rounds)), fault.rounds))


if __name__ == "__main__":
    sys.exit(main())
