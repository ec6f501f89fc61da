"""Frozen intent: what to train, how to compress, what to report; and the keys made from it."""

import hashlib
import itertools
import json
import math
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from population.errors import InputError, unknown_name
from population.schedule import SCOPES, Schedule, ScheduleSpec

#: Seeds are below this: scikit-learn's k-means takes no larger ones.
SEEDS = 2**32

#: Bumped when the meaning of stored results or a default in this module changes, so that old results are
#: not taken for new ones.
FORMAT = 3

METHOD_NAMES = ("merge", "prune", "filters", "random")
PROBES = ("frozen", "refit", "knn")
EVALUATIONS = ("linear", "finetune")
REPAIRS = ("none", "data-free", "bn", "least-squares")
STEMS = ("small", "imagenet")
DEVICES = ("auto", "cpu", "cuda")
SPLITS = ("test", "train")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image that keep its meaning; one row of choices per data set.

    Attributes:
        min_scale: smallest share of the image's area that a crop keeps, in (0, 1].
        rotation: largest rotation in degrees, either way.
        flip: whether images may be mirrored left to right (never for digits).
        colour: strength of brightness, contrast, saturation and hue changes, in [0, 1].
        grey: probability that a colour image turns grey, in [0, 1].
    """

    min_scale: float
    rotation: float
    flip: bool
    colour: float
    grey: float


@dataclass(frozen=True)
class TrainingSpec:
    """How one member is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, before views are made of them.
        learning_rate: peak of the schedule (linear warm-up over the first tenth, then cosine to 0).
        weight_decay: decoupled weight decay of AdamW.
        temperature: of the contrastive loss; unused by other objectives.
        momentum: first momentum of the target network (rises to 1); unused by other objectives.
        augmentation: how views are made.
        redundancy: weight of the off-diagonal correlations of Barlow Twins (the paper's lambda); unused by
            other objectives.
        train_share: fraction of the training images that a member learns from, drawn with its seed.
        forgetting: whether it is noted after each epoch which of these images the classifier has right; the
            weights do not depend on it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    temperature: float
    momentum: float
    augmentation: Augmentation
    redundancy: float = 5e-3
    train_share: float = 1.0
    forgetting: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, not {self.epochs}")


@dataclass(frozen=True)
class ModelSpec:
    """A network and how it learns.

    Attributes:
        objective: ``supervised``, ``simclr``, ...
        architecture: the encoder: ``r18``, ``wrn16_2``, ...
        num_classes: outputs of the classifier.
        in_channels: 1 for grey images, 3 for colour.
        width: channels of the first convolution; all others scale with it.
        stem: how the encoder begins: ``small``, at full resolution, or ``imagenet``, which shrinks early.
    """

    objective: str
    architecture: str
    num_classes: int
    in_channels: int
    width: int
    stem: str = "small"

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class LabelSpec:
    """Which labels a member sees, and how an encoder that was trained without them uses them.

    Attributes:
        fraction: of the training images of every class, in (0, 1]; the others' labels are not looked at.
        seed: of the draw of these images. One for the whole population: the labels that there are belong to
            the data, in which its members do not differ.
        finetuning: how encoder and classifier are trained on these labels, from the weights of the member
            that the same spec without labels describes; None where the classifier alone is fitted, or
            the objective trains it itself.
    """

    fraction: float
    seed: int
    finetuning: TrainingSpec | None = None


@dataclass(frozen=True)
class CompressionSpec:
    """One compression of every member.

    Attributes:
        method: ``merge``, ``prune``, ``filters``, ``random``, or ``identity``, which changes nothing.
        amount: fraction in [0, 1): channels removed per coupled group, or weights set to zero for ``prune``.
        repair: one of ``REPAIRS``, applied after the weights are edited.
        probe: ``frozen`` keeps the classifier, ``refit`` fits it again on the compressed encoder, ``knn``
            lets the nearest training images vote in its place.
        schedule: when networks are compressed, and what follows; None: after training, and nothing.
        scope: of ``prune``: ``global`` compares the weights of all layers, ``layer`` those of each.
        classifier: whether ``prune`` prunes the classifier as well.

    Raises:
        InputError: if the amount is not a number in [0, 1) or a choice is unknown.
    """

    method: str
    amount: float
    repair: str
    probe: str
    schedule: Schedule | None = None
    scope: str = "global"
    classifier: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and 0 <= self.amount < 1):
            raise InputError(f"--{self.method} must be an amount in [0, 1), not {self.amount:g}")
        if self.repair not in REPAIRS:
            raise unknown_name("repair", self.repair, REPAIRS)
        if self.probe not in PROBES:
            raise unknown_name("probe", self.probe, PROBES)
        if self.scope not in SCOPES:
            raise unknown_name("scope", self.scope, SCOPES)

    @property
    def title(self) -> str:
        """Name of the condition in tables, for example ``merge 0.5`` or ``prune 0.9 gradual``."""
        name = f"{self.method} {self.amount:g}"
        return name if self.schedule is None else f"{name} {self.schedule.title}"

    @property
    def design(self) -> Literal["paired", "independent"]:
        """Whether networks are made from the dense ones, or trained on their own, compressed on the way."""
        return "paired" if self.schedule is None or self.schedule.when == "end" else "independent"


@dataclass(frozen=True)
class MemberSpec:
    """All that one trained member depends on; its canonical form is the member's key.

    Attributes:
        model: the network.
        training: how it is trained.
        data: fingerprint of the data set.
        seed: of weights, order and views.
        device: ``cpu`` or ``cuda``; results differ in the last bits between them.
        threads: of the CPU; sums differ in the last bit with their number.
        labels: which labels it sees; None: all of them, and an encoder is evaluated by a linear probe.
        judged: the split whose images it is asked about; the trained weights do not depend on it.
        devices: how many of them train it together; sums differ in the last bits with their number.
    """

    model: ModelSpec
    training: TrainingSpec
    data: str
    seed: int
    device: str
    threads: int
    labels: LabelSpec | None = None
    judged: str = "test"
    devices: int = 1


@dataclass(frozen=True)
class RemainingSpec(MemberSpec):
    """The first member, for the keys of what is computed of a population that others were left out of.

    Attributes:
        excluded: seeds of the members that were left out.
    """

    excluded: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True)
class LoadedSpec:
    """All that members depend on whose weights were read from files; its canonical form makes their keys.

    Attributes:
        architecture: as the command line names it.
        code: version of the library, or digest of the source file, that defines the architecture.
        tensors: digest of each member's tensors, mean and standard deviation of its input included.
        data: fingerprint of the data set.
        seed: of what is drawn in compressions and analyses; equal for all members.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU.
        judged: the split whose images they are asked about.
    """

    architecture: str
    code: str
    tensors: tuple[str, ...]
    data: str
    seed: int
    device: str
    threads: int
    judged: str = "test"


@dataclass(frozen=True)
class AttributeSpec:
    """What is known of images besides their pixels.

    Labels are part of the data, and so of the keys of members; groups are not.

    Attributes:
        groups: CSV with a row per image: a column file or sample_id (of an image folder the path inside it)
            and columns that the next options name.
        label_column: column of the class labels, for imagefolder:PATH; its images may lie in one flat folder.
        label_bins: bounds that make classes of numbers, such as ages: 20 40 60 gives under 20, 20-39, 40-59
            and 60+.
        group_columns: columns of groups to compare, each alone and all crossed. Without --groups, attributes
            of celeba.

    Raises:
        InputError: if an option lacks its fellow, or bounds do not rise.
    """

    groups: str | None = None
    label_column: str | None = None
    label_bins: tuple[float, ...] = ()
    group_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.label_column is not None and self.groups is None:
            raise InputError("--label-column names a column of a table: give --groups FILE as well")
        if self.label_bins and self.label_column is None:
            raise InputError("--label-bins are bounds of a column of numbers: give --label-column as well")
        if self.groups is not None and self.label_column is None and not self.group_columns:
            raise InputError("--groups FILE needs --group-columns, --label-column or both")
        bounds = self.label_bins
        if not all(map(math.isfinite, bounds)) or any(a >= b for a, b in itertools.pairwise(bounds)):
            raise InputError(f"--label-bins must be rising numbers, not {' '.join(f'{b:g}' for b in bounds)}")
        if len(set(self.group_columns)) < len(self.group_columns):
            raise InputError(f"--group-columns names a column twice: {' '.join(self.group_columns)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table that are used."""
        label = (self.label_column,) if self.label_column is not None else ()
        return (*label, *(name for name in self.group_columns if name not in label))


@dataclass(frozen=True)
class PopulationSpec:
    """A population as the command line names it.

    Attributes:
        model: objective and architecture, for example simclr_r18; pie models lists all. With
            --checkpoints, package.module:function is a function without arguments that returns a network.
        data: data set, for example digits (embedded), cifar10, or imagefolder:PATH with a folder for each
            class; pie data lists all.
        members: size K of the population, at least 2; members differ only in seed.
        width: channels of the network's first convolution (default: the data set's preset).
        stem: how the network begins: small (at full resolution) or imagenet (shrinks early); by default
            small for images of at most 64 pixels.
        epochs: passes over the training images (default: the data set's preset). A supervised network
            with --label-fraction takes as many steps on few images as it would on all.
        batch_size: images a step, at least 2 (default: the data set's preset).
        seed: of the first member; member i has this seed + i. All must be in [0, 2^32).
        device: auto (a GPU where there is one), cpu or cuda.
        label_fraction: fraction of the labels that are looked at, in (0, 1]; drawn with --seed within every
            class, at least one. Encoders are pre-trained on all images and fine-tuned on those with labels.
        evaluation: what makes a classifier of a contrastive encoder: linear (a probe; the default) or
            finetune (encoder and classifier are trained on the labels; the default with --label-fraction).
        exclude_diverged: leave out members whose training diverges (default: stop and name the first); at
            least 2 have to remain.
        judged: the images that are compared before and after: test, or train, the training images, as they
            are, without augmentation.
        train_share: fraction of the training images that each member learns from, drawn with its seed. With
            --judged train, images then have a memorisation: how much more often they are right for members
            that learnt from them.
        forgetting: with --judged train, count how often the classifier forgets each image again while it is
            trained (a pass over all images after each epoch).
        attributes: labels and groups of the images.

    Raises:
        InputError: if a value is out of range.
    """

    model: str = "simclr_r18"
    data: str = "digits"
    members: int = 10
    width: int | None = None
    stem: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    label_fraction: float | None = None
    evaluation: str | None = None
    exclude_diverged: bool = False
    judged: str = "test"
    train_share: float = 1.0
    forgetting: bool = False
    attributes: AttributeSpec = field(default_factory=AttributeSpec)

    def __post_init__(self) -> None:
        if self.judged not in SPLITS:
            raise unknown_name("split", self.judged, SPLITS)
        if not 0 < self.train_share <= 1:
            raise InputError(f"--train-share must be in (0, 1], not {self.train_share:g}")
        if self.forgetting and self.judged != "train":
            raise InputError("--forgetting counts events of training images: give --judged train as well")
        few_labels = self.label_fraction is not None or self.evaluation is not None
        if few_labels and (self.train_share < 1 or self.forgetting):
            raise InputError(
                "--train-share and --forgetting do not go with --label-fraction and --evaluation: either a"
                " member sees few images, or few of their labels"
            )
        if self.stem not in (None, *STEMS):
            raise unknown_name("stem", str(self.stem), STEMS)
        if self.members < 2:
            raise InputError(f"--members must be at least 2, not {self.members}: one model is no population")
        if not 0 <= self.seed <= SEEDS - self.members:
            raise InputError(
                f"--seed must be in [0, {SEEDS - self.members}] for {self.members} members, not {self.seed}"
            )
        if self.device not in DEVICES:
            raise unknown_name("device", self.device, DEVICES)
        if self.label_fraction is not None and not 0 < self.label_fraction <= 1:
            raise InputError(f"--label-fraction must be in (0, 1], not {self.label_fraction:g}")
        if self.evaluation not in (None, *EVALUATIONS):
            raise unknown_name("evaluation", str(self.evaluation), EVALUATIONS)
        for name in ("width", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, not {value}")
        if self.batch_size is not None and self.batch_size < 2:
            raise InputError(f"--batch-size must be at least 2, not {self.batch_size}")


@dataclass(frozen=True)
class CheckpointSpec:
    """A user's own trained networks as the command line names them.

    Attributes:
        checkpoints: files of trained weights, or patterns such as 'runs/*.safetensors': .safetensors, or
            .pt, .pth or .th without pickled code. Each file is a member; they take the place of trained
            members. A single file makes a report on flips, without what needs several seeds.
        arch: their network: a name of torchvision, of timm where it is installed, or of pie models.
        mean: subtracted from each channel of images in [0, 1] before the network sees them; one number
            is for all channels (default: from the file beside the checkpoint with the ending .json).
        std: divides each channel after that.

    Raises:
        InputError: if a value is out of range or an option lacks its fellow.
    """

    checkpoints: tuple[str, ...] = ()
    arch: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("arch", "mean", "std"):
            if getattr(self, name) and not self.checkpoints:
                raise InputError(f"--{name} is for networks read from files: give --checkpoints as well")
        if len(self.mean) != len(self.std):
            raise InputError(
                f"--mean and --std need one number per channel each, not {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, self.mean)):
            raise InputError("--mean must be numbers on the scale of images in [0, 1]")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise InputError("--std must be positive numbers on the scale of images in [0, 1]")


@dataclass(frozen=True)
class ReportSpec:
    """Everything that decides what a report says.

    Attributes:
        population: the models and the data.
        own: networks that were trained elsewhere.
        merge: fractions of channels to merge away in every coupled group; each amount is a condition.
        prune: fractions of weights to set to zero, by their size, each alone.
        filters: fractions of channels to remove by the L1 norm of their filters.
        random: fractions of channels to remove at random.
        probe: the classifier after compression: frozen (kept) or refit (fitted again). Further ones
            are compared with the first in a table, for which there is also knn (the nearest training images
            vote).
        repair: after compression: none, data-free (variance correction of merged channels), bn
            (BatchNorm statistics re-estimated on training images) or least-squares (every layer fitted
            again on training images). With several, every amount is a condition under each.
        timing: when networks are made smaller.

    Raises:
        InputError: if a value is out of range or nothing is to be compressed.
    """

    population: PopulationSpec = field(default_factory=PopulationSpec)
    own: CheckpointSpec = field(default_factory=CheckpointSpec)
    merge: tuple[float, ...] = ()
    prune: tuple[float, ...] = ()
    filters: tuple[float, ...] = ()
    random: tuple[float, ...] = ()
    probe: tuple[str, ...] = ("frozen",)
    repair: tuple[str, ...] = ("bn",)
    timing: ScheduleSpec = field(default_factory=ScheduleSpec)

    def __post_init__(self) -> None:
        self.timing.check_methods({method: getattr(self, method) for method in METHOD_NAMES})
        if not any(getattr(self, method) for method in METHOD_NAMES):
            raise InputError("nothing to compare: give at least one of --merge, --prune, --filters, --random")
        if "least-squares" in self.repair and self.prune:
            raise InputError("--repair least-squares is for lost channels; it does not go with --prune")
        for name in ("repair", "probe"):
            given = getattr(self, name)
            if not given:
                raise InputError(f"--{name} needs at least one {name}")
            if len(set(given)) < len(given):
                raise InputError(f"--{name}: the same {name} is given twice")
        for probe in self.probe:
            if probe not in PROBES:
                raise unknown_name("probe", probe, PROBES)
        if self.probe[0] == "knn":
            raise InputError(
                "--probe knn has no gradients, which a report explains its networks by: give frozen or refit"
                " before it"
            )
        if len(set(self.conditions)) < len(self.conditions):
            raise InputError("the same method and amount is given twice")
        titles = [self.title(condition) for condition in self.conditions]
        for title in titles:
            if titles.count(title) > 1:
                raise InputError(f"two conditions would both be called {title!r}: their numbers are too near")
        self._check_own()
        self._check_seeds()

    def _check_own(self) -> None:
        """Raises InputError if the members' network is named twice or not at all."""
        named, own = self.population, self.own
        built = ":" in named.model
        if own.checkpoints and any(c.schedule for c in self.conditions):
            raise InputError(
                "--schedule and --finetune-epochs are for networks that are trained here; they do not go with"
                " --checkpoints"
            )
        if any(c.schedule for c in self.conditions) and (
            named.label_fraction or named.evaluation or named.train_share < 1 or named.judged != "test"
        ):
            raise InputError(
                "--schedule and --finetune-epochs do not go with --label-fraction, --evaluation, --judged"
                " train and --train-share: networks are compressed in one training, on all images"
            )
        if not own.checkpoints:
            if built:
                raise InputError(
                    f"--model {named.model} builds one network, which is no population: give the trained"
                    " weights of at least 2 as --checkpoints"
                )
            return
        if built == (own.arch is not None):
            raise InputError("--checkpoints needs either --arch NAME or --model package.module:function")
        for name in (
            "epochs", "batch_size", "label_fraction", "evaluation", "exclude_diverged", "forgetting",
        ):  # fmt: skip
            if getattr(named, name) not in (None, False):
                flag = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{flag} is for networks that are trained here; it does not go with --checkpoints"
                )
        if named.train_share < 1:
            raise InputError(
                "--train-share is for networks that are trained here; it does not go with --checkpoints"
            )

    def _check_seeds(self) -> None:
        """Raises InputError if there are no seeds for networks that are trained beside the dense ones."""
        named = self.population
        highest = SEEDS - 2 * named.members
        if named.seed > highest and any(c.design == "independent" for c in self.conditions):
            raise InputError(
                f"--seed must be in [0, {highest}] for twice {named.members} members, not {named.seed}"
            )

    @property
    def network(self) -> str:
        """The members' network as the user named it."""
        return self.own.arch or self.population.model

    @property
    def design(self) -> str:
        """``paired`` or ``independent``; ``mixed`` where conditions are of both."""
        designs = {condition.design for condition in self.conditions}
        return designs.pop() if len(designs) == 1 else "mixed"

    @property
    def conditions(self) -> tuple[CompressionSpec, ...]:
        """Every requested compression, in the order merge, prune, filters, random; under each repair."""
        return tuple(
            condition
            for method in METHOD_NAMES
            for amount in getattr(self, method)
            for schedule in self.timing.schedules(method)
            for condition in self._conditions(method, float(amount), schedule)
        )

    def _conditions(
        self, method: str, amount: float, schedule: Schedule | None
    ) -> tuple[CompressionSpec, ...]:
        pruned, timing = method == "prune", self.timing
        first, *others = (
            CompressionSpec(
                method,
                amount + 0.0,  # makes -0.0 the same amount, and the same condition, as 0.0
                repair,
                self.probe[0],
                schedule,
                scope=timing.prune_scope if pruned else "global",
                classifier=timing.prune_classifier and pruned,
            )
            for repair in self.repair
        )
        if first.design == "independent":
            # Training mends what compression breaks, and the probe belongs to the network as it ends.
            return (replace(first, repair="none", probe="refit"),)
        return (first, *others)

    def title(self, condition: CompressionSpec) -> str:
        """Name of a condition in tables: ``merge 0.5``, and of several repairs ``merge 0.5 bn``."""
        several = len(self.repair) > 1 and condition.design == "paired"
        return f"{condition.title} {condition.repair}" if several else condition.title


def canonical(*parts: Any) -> str:
    """One line of JSON that is equal for equal specs and differs for different ones.

    Fields that have their default value are left out, so that a new option leaves the keys of finished work
    as they were.

    Args:
        parts: frozen dataclasses of this module, strings, numbers, None, or lists of these.
    """
    return json.dumps([FORMAT, *map(_plain, parts)], sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(part: Any) -> Any:
    if is_dataclass(part):
        told = [f for f in fields(part) if not _is_default(f, getattr(part, f.name))]
        return {type(part).__name__: {f.name: _plain(getattr(part, f.name)) for f in told}}
    return [_plain(p) for p in part] if isinstance(part, (list, tuple)) else part


def _is_default(declared: "Field[Any]", value: Any) -> bool:
    if declared.default_factory is not MISSING:
        return bool(value == declared.default_factory())
    return declared.default is not MISSING and bool(value == declared.default)


def key(*parts: Any) -> str:
    """Name under which what depends on the parts is stored: 20 hexadecimal digits."""
    return hashlib.sha256(canonical(*parts).encode()).hexdigest()[:20]


def weights_key(spec: MemberSpec | LoadedSpec) -> str:
    """Name under which a member's weights are stored: they are the same whatever it is asked about."""
    return key(replace(spec, judged="test"))
