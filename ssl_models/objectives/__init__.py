"""What a network is trained for, one paper per file."""

import os

# lightly's import would otherwise look for a newer version on the network.
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")

from ssl_models.objectives.barlowtwins import BarlowTwins
from ssl_models.objectives.byol import BYOL
from ssl_models.objectives.simclr import SimCLR
from ssl_models.objectives.supcon import SupCon
from ssl_models.objectives.supervised import Supervised

Objective = Supervised | SimCLR | BYOL | SupCon | BarlowTwins

#: Objectives by name. Each is built from (model, TrainingSpec), maps (views, labels) to a loss, says
#: how many views it wants, whether it trains the classifier and looks at labels, names the projection that
#: reads the embedding, if any, and is told of each step, and when the model was made smaller in place.
OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "simclr": SimCLR,
    "byol": BYOL,
    "supcon": SupCon,
    "barlowtwins": BarlowTwins,
}
