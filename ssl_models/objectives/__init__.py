"""What a network is trained for, one paper per file."""

import os

# lightly's import would otherwise look for a newer version on the network.
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")

from ssl_models.objectives.byol import BYOL
from ssl_models.objectives.simclr import SimCLR
from ssl_models.objectives.supcon import SupCon
from ssl_models.objectives.supervised import Supervised

Objective = Supervised | SimCLR | BYOL | SupCon

#: Objectives by name. Each is built from (model, TrainingSpec), maps (views, labels) to a loss, says
#: how many views it wants and whether it trains the classifier, and is told of each step taken.
OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "simclr": SimCLR,
    "byol": BYOL,
    "supcon": SupCon,
}
