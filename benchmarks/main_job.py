"""The main job, cold and warm, as a user runs it: ``make bench``."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("pie-report")), "--model", "simclr_r18", "--merge", "0.5"]


def main() -> None:
    """Runs the job in an empty store, again in the full one, and asks for help; prints one table."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PIE_STORE": f"{folder}/store"}

        def run(*arguments: str) -> float:
            start = time.perf_counter()
            subprocess.run([*COMMAND, *arguments], env=environment, check=True, capture_output=True)
            return time.perf_counter() - start

        help_seconds = min(run("--help") for _ in range(5))
        cold = run("--out", f"{folder}/run")
        # In kilobytes on Linux; of the largest child so far, which is the cold job.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        warm = min(run("--out", f"{folder}/run") for _ in range(3))
        report = json.loads(Path(folder, "run", "report.json").read_text())
    rows = [
        ("cold, 10 members trained", f"{cold:.0f} s", "300 s"),
        ("warm, everything stored", f"{warm:.1f} s", "20 s"),
        ("peak memory, cold", f"{peak:.2f} GiB", "2 GB"),
        ("--help", f"{help_seconds:.2f} s", "0.5 s"),
        ("dense probe accuracy", f"{report['dense']['accuracy']['mean']:.4f}", "at least .95"),
    ]
    print(f"pie-report --model simclr_r18 --merge 0.5, {len(os.sched_getaffinity(0))} cores")
    for name, value, goal in rows:
        print(f"{name:28} {value:>10}   goal {goal}")


if __name__ == "__main__":
    main()
