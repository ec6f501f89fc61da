"""Dense members that were trained elsewhere: files of weights for one network."""

import glob
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.similarity.activations import comparable_layers
from compressors.contract import model_digest
from compressors.repair.recalibrate import BATCH_NORMS
from pie_report.members import Network
from population.errors import InputError
from population.spec import REPAIRS, LoadedSpec, PopulationSpec, ReportSpec
from ssl_models.architectures import Build, built_network, named_network
from ssl_models.backbones import Classifier
from ssl_models.datasets import ImageData
from ssl_models.imported import ImportedNetwork, forget, last_linear
from ssl_models.predict import batches
from ssl_models.presets import preset
from ssl_models.weights import fill, read_weights
from ssl_models.zoo import build_model, model_names, split_name, stem_for

#: Most layers of a network whose outputs are compared.
COMPARED_LAYERS = 8

_SCALE_KEYS = ("mean", "std")

#: Of an ``ImportedNetwork``: the input, and the network, whose output is that of its last layer.
_PARTS = ("normalize", "network")


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each channel of the input, on the scale of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class LoadedMembers:
    """K networks read from K files; ``DenseMembers`` that were trained elsewhere.

    Attributes:
        common: digests of all files; every member has the same seed, so that it does not matter beside
            which others it stands.
        paths: the files.
        build: makes the network.
        scale: of the input; None where the network holds its own.
        head_name: last linear layer of an ``ImportedNetwork``, None if it is not known.
    """

    common: LoadedSpec
    paths: tuple[Path, ...]
    build: Build
    scale: Scale | None
    head_name: str | None

    @property
    def memory_format(self) -> torch.memory_format:
        """The usual one: networks that view feature maps as vectors fail in others."""
        return torch.contiguous_format

    @property
    def has_head(self) -> bool:
        """Whether the last linear layer is known."""
        return self.scale is None or self.head_name is not None

    @property
    def labelled(self) -> None:
        """What is fitted here may look at all labels."""

    @property
    def seeds(self) -> list[int]:
        """The same seed for all members."""
        return [self.common.seed] * len(self.paths)

    def learnt_from(self, index: int) -> None:
        """Taken to be all training images; no file says which."""
        del index

    def spec(self, index: int) -> LoadedSpec:
        """Spec of member ``index``."""
        return replace(self.common, tensors=(self.common.tensors[index],))

    def network(self, index: int) -> Network:
        """The member as its file has it.

        Raises:
            InputError: if the file was changed since the population was opened.
        """
        path = self.paths[index]
        network = load_member(path, self.build, self.scale, self.head_name)
        if model_digest(network) != self.common.tensors[index]:
            raise InputError(f"{path} was changed while it was in use; start again")
        return network.to(self.common.device)

    def untrained(self, index: int) -> Network:
        """The network with random weights; the same for all members, as their seed is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seeds[index])
            network = load_member(self.paths[index], self.build, self.scale, self.head_name)
            forget(network)
        return network.to(self.common.device)

    def layers(self, example: Tensor) -> dict[str, str]:
        """Up to ``COMPARED_LAYERS`` layers, evenly spread over the network, the last one among them."""
        names = [n for n in comparable_layers(self.network(0), example) if n not in _PARTS]
        count = min(COMPARED_LAYERS, len(names))
        chosen = [names[len(names) * (i + 1) // count - 1] for i in range(count)]
        return {name.removeprefix("network."): name for name in chosen}

    def describe(self) -> dict[str, Any]:
        """What the members are; how they were trained is not known."""
        files = zip(self.paths, self.common.tensors, strict=True)
        scale: dict[str, str] = {}
        if self.scale is not None:
            scale = {
                "input_mean": _numbers(self.scale.mean),
                "input_std": _numbers(self.scale.std),
            }
        return {
            "model": self.common.architecture,
            "seeds": None,
            "excluded_seeds": None,
            "training": {
                "files": ", ".join(f"{path.name} ({digest[:12]})" for path, digest in files),
                "code": self.common.code,
                **scale,
            },
            "labels": None,
        }


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:g}" for v in values)


def open_checkpoints(spec: ReportSpec, data: ImageData, *, device: str, threads: int) -> LoadedMembers:
    """Reads every file once, and settles what the network is and what it takes.

    Args:
        spec: of a report with checkpoints.
        data: what the networks are asked about.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU.

    Raises:
        InputError: if a file or the network is not what it has to be; says what.
    """
    paths = find_files(spec.own.checkpoints)
    _check_options(spec.population, len(paths))
    build, code = _builder(spec, data)
    example = next(batches(torch.from_numpy(data.test.images[:1])))
    scale = None
    if not isinstance(_bare(paths[0], build), Classifier):
        scale = _input_scale(spec, paths, data.in_channels)
    elif spec.own.mean:
        raise InputError(f"--mean and --std: {spec.network} holds its own mean and standard deviation")
    first = load_member(paths[0], build, scale, None)
    _check_outputs(spec.network, first, example, data)
    head_name = last_linear(first, example)
    needs_head = [probe for probe in spec.probe if probe != "frozen"]
    if needs_head and head_name is None:
        raise InputError(
            f"--probe {needs_head[0]}: the last linear layer of {spec.network} is not known (none with a bias"
            " gives the network's outputs); only --probe frozen is possible"
        )
    norms = (m for m in first.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats)
    if "bn" in spec.repair and next(norms, None) is None:
        others = ", ".join(r for r in REPAIRS if r != "bn")
        raise InputError(
            f"--repair bn: {spec.network} has no BatchNorm statistics to re-estimate; choose one of {others}"
        )
    digests = tuple(model_digest(load_member(path, build, scale, head_name)) for path in paths)
    for i, digest in enumerate(digests):
        if digest in digests[:i]:
            other = paths[digests.index(digest)]
            raise InputError(
                f"{other} and {paths[i]} hold the same weights; members must be different networks"
            )
    common = LoadedSpec(
        spec.network,
        code,
        digests,
        data.fingerprint(),
        spec.population.seed,
        device,
        threads,
        judged=spec.population.judged,
    )
    return LoadedMembers(common, paths, build, scale, head_name)


def find_files(patterns: Sequence[str]) -> tuple[Path, ...]:
    """Files that paths and patterns name, sorted by name.

    Raises:
        InputError: if a pattern has no match or a file is named twice.
    """
    found: list[Path] = []
    for pattern in patterns:
        text = str(Path(pattern).expanduser())
        # Path.glob takes no absolute patterns.
        matches = [text] if Path(text).exists() else glob.glob(text, recursive=True)  # noqa: PTH207
        if not matches:
            raise InputError(f"--checkpoints: no file matches {pattern}")
        found += map(Path, matches)
    paths = sorted(found, key=lambda path: (path.name, str(path)))
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"--checkpoints: {path} is given twice")
    return tuple(paths)


def _check_options(named: PopulationSpec, files: int) -> None:
    if named.members not in (PopulationSpec().members, files):
        raise InputError(
            f"--members {named.members}: with --checkpoints it is the number of files, here {files}"
        )


def _builder(spec: ReportSpec, data: ImageData) -> tuple[Build, str]:
    """What makes the network, and the version of its code."""
    named, name = spec.population, spec.network
    if name in model_names():
        chosen = preset(named.data, split_name(name)[0])
        build = partial(
            _own_network,
            name,
            data.num_classes,
            data.in_channels,
            named.width or chosen.width,
            named.stem or stem_for(data.resolution),
        )
        return build, "pie-toolkit"
    for option in ("width", "stem"):
        if getattr(named, option) is not None:
            raise InputError(f"--{option} is for networks of pie models; {name} is none of them")
    if spec.own.arch is None:
        return built_network(name)
    return named_network(name, num_classes=data.num_classes, in_channels=data.in_channels)


def _own_network(
    name: str, num_classes: int, in_channels: int, width: int, stem: str, tensors: Mapping[str, Tensor]
) -> nn.Module:
    del tensors  # the name and the options say what the network is
    return build_model(name, num_classes=num_classes, in_channels=in_channels, width=width, seed=0, stem=stem)


def _bare(path: Path, build: Build) -> nn.Module:
    """A network with the weights of a file; torch's global random state is left as it was."""
    tensors = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        network = build(tensors)
    fill(network, tensors, path)
    return network


def load_member(path: Path, build: Build, scale: Scale | None, head_name: str | None) -> Network:
    """Reads a member, on the CPU and in eval mode.

    Args:
        path: the file.
        build: makes the network.
        scale: of its input; None where the network holds its own.
        head_name: see ``ImportedNetwork``.

    Raises:
        InputError: if the file is not readable or does not fit the network.
    """
    network = _bare(path, build)
    if isinstance(network, Classifier):
        return network.eval()
    if scale is None:
        raise InputError(f"{path}: how the network's input is scaled is not known")
    return ImportedNetwork(network, scale.mean, scale.std, head_name).eval()


def _input_scale(spec: ReportSpec, paths: Sequence[Path], channels: int) -> Scale:
    """Mean and std from the command line, or from the files beside the checkpoints."""
    own = spec.own
    if own.mean:
        return _of_channels(Scale(own.mean, own.std), channels, "--mean and --std")
    scales = [_side_file(path, channels) for path in paths]
    for path, scale in zip(paths, scales, strict=True):
        if scale != scales[0]:
            raise InputError(
                f"{paths[0].with_suffix('.json')} and {path.with_suffix('.json')} give different means and"
                " standard deviations; members of one population take the same input"
            )
    return scales[0]


def _side_file(path: Path, channels: int) -> Scale:
    side = path.with_suffix(".json")
    if not side.is_file():
        raise InputError(
            f"{path}: the mean and standard deviation of its input are not known: give --mean and --std (for"
            f" images in [0, 1] as they are, --mean 0 --std 1), or write {side.name} beside it with the keys"
            " mean and std"
        )
    try:
        content = json.loads(side.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{side} is not readable JSON ({error})") from error
    parts: list[tuple[float, ...]] = []
    for key in _SCALE_KEYS:
        values = content.get(key, content.get(f"input_{key}")) if isinstance(content, dict) else None
        if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
            raise InputError(f"{side} has no list of numbers under {key} or input_{key}")
        parts.append(tuple(float(v) for v in values))
    if not all(map(math.isfinite, (*parts[0], *parts[1]))) or min(parts[1], default=0) <= 0:
        raise InputError(f"{side}: mean must be finite numbers, std positive ones")
    return _of_channels(Scale(*parts), channels, str(side))


def _of_channels(scale: Scale, channels: int, where: str) -> Scale:
    """The scale with one number per channel; a single one is for all."""
    for name, values in (("mean", scale.mean), ("std", scale.std)):
        if len(values) not in (1, channels):
            raise InputError(f"{where}: {name} has {len(values)} numbers for images of {channels} channel(s)")
    return Scale(*(v * channels if len(v) == 1 else v for v in (scale.mean, scale.std)))


def _check_outputs(name: str, network: Network, example: Tensor, data: ImageData) -> None:
    """Raises InputError unless the network takes the images and gives one score per class."""
    try:
        with torch.inference_mode():
            scores: object = network(example)
    except RuntimeError as error:
        raise InputError(
            f"{name} does not take images of shape {list(example.shape[1:])} ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (1, data.num_classes):
        what = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"{name} gives outputs of {what}; {data.name} has {data.num_classes} classes")
