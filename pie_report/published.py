"""Published experiments as specs, at full scale and small: what ``pie report --preset NAME`` begins from.

Every number has its source, or is marked: *ours* where the paper's was not found or this toolkit cannot do
what the paper did. The small ones keep models, methods, amounts and schedules (as shares of the training)
and have fewer, narrower networks and fewer epochs, all ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from population.errors import unknown_name
from population.schedule import ScheduleSpec
from population.spec import PopulationSpec, ReportSpec


@dataclass(frozen=True)
class Published:
    """Settings to begin from.

    Attributes:
        source: where the numbers are from.
        deviations: what is not as published.
        spec: the settings.
    """

    source: str
    deviations: tuple[str, ...]
    spec: ReportSpec


_OPTIMIZER = "AdamW with this toolkit's rates and augmentation in place of SGD with the paper's"
_SMALL = "small: fewer networks, width, epochs and amounts than published"

_HOOKER = (
    "Hooker et al. 2019, arXiv 1911.05248: CIFAR-10, wide ResNet, 30 networks per level, gradual pruning by"
    " the cubic schedule to 0.3, 0.5, 0.7 and 0.9, networks trained anew at each level"
)
_HOOKER_DEVIATIONS = (
    "WRN-16-2, as it is the wide ResNet here",
    "205 epochs of batches of 128, pruned from step 1000 to 20000 every 500: of supervised networks on"
    " CIFAR-10 in Corti et al. 2022, as this paper's were not found",
    "weights of all layers are compared together; the paper does not say",
    _OPTIMIZER,
)
_CORTI = (
    "Corti et al. 2022, arXiv 2207.00200, and its code: CIFAR-10, WRN-16-2, SupCon, 30 networks, 500 epochs"
    " of batches of 1024; 0.3, 0.5, 0.7 and 0.9 by one-shot pruning with 30 epochs after it, and gradually,"
    " early or late (steps 2440 to 4760 every 62), layer by layer; the classifier is pruned as well. Its"
    " supervised side: --model supervised_wrn16_2 --epochs 205 --batch-size 128 --probe frozen"
)
_CORTI_DEVIATIONS = (
    "the early window, steps 0 to 2320, is ours: of the late one's length, as the paper's was not found",
    "one-shot pruning is layer by layer too, where the paper compares all layers' weights",
    "temperature 0.1 where theirs is 0.5; the probe is logistic regression, pruned once it is fitted",
    _OPTIMIZER,
)
_WANG = (
    "Wang et al. 2025, arXiv 2502.10216: CIFAR-10, ResNet-18, channels merged after training, with BatchNorm"
    " re-estimated; filters removed by their L1 norm for comparison. Amounts: of an independent rerun of the"
    " paper's code"
)
_WANG_DEVIATIONS = (
    "10 networks, the epochs and the batch size are this toolkit's own",
    "filters are removed in coupled groups; the paper's baseline sets them to zero layer by layer",
    "re-estimation looks at 5,000 images without augmentation, the paper's at all, augmented",
    _OPTIMIZER,
)

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "hooker2019": Published(
            _HOOKER,
            _HOOKER_DEVIATIONS,
            ReportSpec(
                population=PopulationSpec(
                    model="supervised_wrn16_2",
                    data="cifar10",
                    members=30,
                    width=16,
                    epochs=205,
                    batch_size=128,
                ),
                prune=(0.3, 0.5, 0.7, 0.9),
                timing=ScheduleSpec(schedule=("gradual",), prune_window=(1000, 20000), prune_every=500),
            ),
        ),
        "hooker2019-small": Published(
            _HOOKER,
            (*_HOOKER_DEVIATIONS, _SMALL),
            ReportSpec(
                population=PopulationSpec(
                    model="supervised_wrn16_2",
                    data="cifar10",
                    members=10,
                    width=8,
                    epochs=10,
                    batch_size=128,
                ),
                prune=(0.5, 0.9),
                timing=ScheduleSpec(schedule=("gradual",), prune_window=(0.0125, 0.25)),
            ),
        ),
        "corti2022": Published(
            _CORTI,
            _CORTI_DEVIATIONS,
            ReportSpec(
                population=PopulationSpec(
                    model="supcon_wrn16_2", data="cifar10", members=30, width=16, epochs=500, batch_size=1024
                ),
                prune=(0.3, 0.5, 0.7, 0.9),
                probe=("refit",),
                timing=ScheduleSpec(
                    schedule=("end", "gradual"),
                    finetune_epochs=(30,),
                    prune_window=(0, 2320, 2440, 4760),
                    prune_every=62,
                    prune_scope="layer",
                    prune_classifier=True,
                ),
            ),
        ),
        "corti2022-small": Published(
            _CORTI,
            (*_CORTI_DEVIATIONS, _SMALL),
            ReportSpec(
                population=PopulationSpec(
                    model="supcon_wrn16_2", data="cifar10", members=10, width=8, epochs=10, batch_size=256
                ),
                prune=(0.5, 0.9),
                probe=("refit",),
                timing=ScheduleSpec(
                    schedule=("end", "gradual"),
                    finetune_epochs=(1,),
                    prune_window=(0, 0.1, 0.1, 0.2),
                    prune_scope="layer",
                    prune_classifier=True,
                ),
            ),
        ),
        "wang2025": Published(
            _WANG,
            _WANG_DEVIATIONS,
            ReportSpec(
                population=PopulationSpec(model="supervised_r18", data="cifar10", members=10, width=64),
                merge=(0.1, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75),
                filters=(0.1, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75),
            ),
        ),
        "wang2025-small": Published(
            _WANG,
            (*_WANG_DEVIATIONS, _SMALL),
            ReportSpec(
                population=PopulationSpec(
                    model="supervised_r18", data="cifar10", members=10, width=8, epochs=10
                ),
                merge=(0.25, 0.45, 0.65),
                filters=(0.25, 0.45, 0.65),
            ),
        ),
    }
)


def published(name: str) -> Published:
    """Finds a preset.

    Raises:
        InputError: if the name is unknown; says which is nearest.
    """
    if name not in PUBLISHED:
        raise unknown_name("preset", name, PUBLISHED)
    return PUBLISHED[name]
