"""``pie report`` made small: ``python small.py NOTES DIVERGING [OPTIONS]``.

NOTES is a file that gets a line with the seed of every member whose training begins. DIVERGING names the
seeds, joined by commas, that are trained at a learning rate at which the loss becomes NaN.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from pie_report import cli, commands

OPTIONS = ("--model", "simclr_wrn16_2", "--members", "3", "--width", "4", "--epochs", "1", "--merge", "0.5")
IMAGES, FIGURES = 4, ("accuracy-cost", "cka")
NAN_RATE = 1e30


def note_training() -> None:
    """Changes how members are trained; in worker processes too, which import this file."""
    from pie_report import trained

    notes, diverging = Path(sys.argv[1]), {int(seed) for seed in sys.argv[2].split(",") if seed}
    train = trained.train

    def noted(*arguments: Any, spec: Any, **rest: Any) -> list[float]:
        with notes.open("a") as stream:
            stream.write(f"{rest['seed']}\n")
        if rest["seed"] in diverging:
            spec = dataclasses.replace(spec, learning_rate=NAN_RATE)
        return train(*arguments, spec=spec, **rest)

    trained.train = noted


def report(flags: commands.Report) -> None:
    """The command, which loads what is to be changed only when it runs."""
    from figures import thesis
    from pie_report import attribution_maps

    note_training()
    attribution_maps.IMAGES = IMAGES
    thesis.FIGURES = {name: thesis.FIGURES[name] for name in FIGURES}
    commands.report(flags)


if __name__ == "__mp_main__":
    note_training()
if __name__ == "__main__":
    commands.COMMANDS["report"] = (commands.Report, report)
    sys.exit(cli.main(["report", *OPTIONS, *sys.argv[3:]]))
