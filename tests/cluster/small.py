"""``pie`` made small and slow: ``python small.py NOTES PAUSE COMMAND [OPTIONS]``.

With --executor slurm every training step is followed by a rest of PAUSE seconds and a line in NOTES/SEED: the
step and the process. A member with a file NOTES/fail-SEED fails. What a job needs of this file is pickled.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pie_report import cli

OPTIONS = ("--model", "supervised_wrn16_2", "--width", "2", "--epochs", "2", "--quiet")
IMAGES, FIGURES = 4, ("accuracy-cost", "cka")
NOTES, PAUSE = Path(sys.argv[1]), float(sys.argv[2])


class Rest:
    """A hook of the training."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def after_step(self, step: int, total: int) -> None:
        with (NOTES / str(self.seed)).open("a") as stream:
            stream.write(f"{step} {os.getpid()}\n")
        if (NOTES / f"fail-{self.seed}").exists():
            raise RuntimeError("told to fail")
        time.sleep(PAUSE)

    def after_epoch(self, epoch: int) -> None:
        pass

    def state(self) -> Mapping[str, torch.Tensor]:
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


def finish_member(shared: Any, index: int) -> None:
    """The task of a job, with rests."""
    from pie_report import pipeline, trained

    train = trained.train

    def slowly(*arguments: Any, hooks: Any = (), **rest: Any) -> list[float]:
        return train(*arguments, hooks=(*hooks, Rest(rest["seed"])), **rest)

    trained.train = slowly
    pipeline._finish_member(shared, index)


def main() -> int:
    from figures import thesis
    from pie_report import attribution_maps, pipeline

    attribution_maps.IMAGES = IMAGES
    thesis.FIGURES = {name: thesis.FIGURES[name] for name in FIGURES}
    if "slurm" in sys.argv:
        pipeline._finish_member = finish_member
    return cli.main([sys.argv[3], *OPTIONS, *sys.argv[4:]])


if __name__ == "__main__":
    sys.exit(main())
