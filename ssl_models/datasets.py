"""Images by name, as arrays in memory."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from population.attributes import AttributeTable, check_groups, groups_of, read_attributes
from population.errors import InputError, unknown_name
from population.spec import AttributeSpec
from ssl_models.catalogue import DATA_SETS
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.celeba import DEFAULT_ATTRIBUTE, load_celeba
from ssl_models.sources.digits import load_digits
from ssl_models.sources.folder import folder_name, load_folder
from ssl_models.sources.planted import STYLE, load_planted
from ssl_models.sources.torchvision_sets import (
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
    load_stl10,
    load_svhn,
    load_usps,
)

__all__ = ["LOADERS", "ImageData", "ImageSplit", "check_data_name", "display_name", "load_data"]

_FOLDER, _CELEBA = "imagefolder:", "celeba:"
_PLANTED, _UNPLANTED = "planted:", "unplanted:"
_NOTHING = AttributeSpec()

_log = logging.getLogger(__name__)

#: What reads a data set, given ``data_dir`` and ``download``. Names with a part of the user's own, as
#: ``imagefolder:PATH``, are not among them.
LOADERS: dict[str, Callable[[Path | None, bool], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "usps": load_usps,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "svhn": load_svhn,
    "stl10": load_stl10,
    "celeba": lambda data_dir, download: load_celeba(DEFAULT_ATTRIBUTE, data_dir, download),
}


def load_data(
    name: str,
    *,
    data_dir: Path | None,
    download: bool,
    attributes: AttributeSpec = _NOTHING,
    split: str = "test",
) -> ImageData:
    """Reads a data set into memory.

    Args:
        name: a key of ``LOADERS``, ``celeba:ATTRIBUTE``, ``imagefolder:PATH``, ``planted:SHARE`` or
            ``unplanted:SHARE``.
        data_dir: where torchvision's data sets are; unused by the others.
        download: whether an absent torchvision data set may be fetched into ``data_dir``.
        attributes: labels and groups that a table gives, or columns of celeba's own. Rows of images that
            the data do not have are left out, and a warning says how many.
        split: whose images are compared, ``test`` or ``train``; these need groups.

    Returns:
        The images at the data set's resolution; those that are compared with their groups.

    Raises:
        InputError: if the name is unknown, the data are absent, damaged or empty, or the attributes do not
            go with them.
    """
    check_data_name(name)
    _check_attributes(name, attributes)
    table = None
    if attributes.groups is not None:
        table = read_attributes(Path(attributes.groups).expanduser(), attributes.columns)
    if name.startswith(_FOLDER):
        data = load_folder(Path(name.removeprefix(_FOLDER)).expanduser(), table, attributes)
    elif name.partition(":")[0] == "celeba":
        own = attributes.group_columns if table is None else ()
        attribute = name.removeprefix(_CELEBA) if name.startswith(_CELEBA) else DEFAULT_ATTRIBUTE
        data = load_celeba(attribute, data_dir, download, group_columns=own)
    elif name.startswith((_PLANTED, _UNPLANTED)):
        kind, _, share = name.partition(":")
        data = load_planted(share, planted=kind == "planted")
    else:
        data = LOADERS[name](data_dir, download)
    if table is not None:
        data = _with_groups(data, table, attributes.group_columns, split)
    groups = groups_of(data.judged_on(split).test.samples)
    if groups is not None:
        check_groups(groups)
    return data


def check_data_name(name: str) -> None:
    """Raises InputError unless the name is one that ``load_data`` knows."""
    kinds = (_FOLDER, _CELEBA, _PLANTED, _UNPLANTED)
    with_part = any(name.startswith(kind) and name != kind for kind in kinds)
    if not (name in LOADERS or with_part):
        raise unknown_name("data set", name, DATA_SETS)


def _check_attributes(name: str, attributes: AttributeSpec) -> None:
    """Raises InputError if options do not go with the data set."""
    kind = name.partition(":")[0]
    if attributes.label_column is not None and kind != "imagefolder":
        raise InputError(f"--label-column is for imagefolder:PATH; {kind} has labels of its own")
    own = attributes.group_columns if attributes.groups is None else ()
    if kind in ("planted", "unplanted") and own not in ((), (STYLE,)):
        raise InputError(f"--group-columns {' '.join(own)}: the only column of {kind} is {STYLE}")
    if own and kind not in ("celeba", "planted", "unplanted"):
        raise InputError(
            f"--group-columns names columns of a table, and {kind} has none of its own: give --groups FILE"
        )


def _with_groups(data: ImageData, table: AttributeTable, columns: tuple[str, ...], split: str) -> ImageData:
    """The same data; the images of a split know their groups."""
    parts = {"train": data.train, "test": data.test}
    left_out = table.left_out(np.concatenate([part.samples.sample_id for part in parts.values()]))
    if left_out:
        rows = "1 row" if left_out == 1 else f"{left_out} rows"
        _log.warning("%s: %s of images that %s does not have left out", table.path, rows, data.name)
    if not columns:
        return data
    samples = parts[split].samples
    rows_of = table.rows(samples.sample_id)
    groups = {name: rows_of[name].to_numpy(dtype=np.str_) for name in columns}
    parts[split] = replace(parts[split], samples=replace(samples, groups=groups))
    return replace(data, train=parts["train"], test=parts["test"])


def display_name(name: str) -> str:
    """Name for reports: of a folder only its last part, so that no path is shown."""
    return folder_name(Path(name.removeprefix(_FOLDER))) if name.startswith(_FOLDER) else name
