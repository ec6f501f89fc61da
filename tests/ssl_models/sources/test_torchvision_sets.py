"""Every data set in its own file format, with a few images; torchvision's checksums are passed over."""

import bz2
import gzip
import os
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from torchvision.datasets import cifar, stl10, svhn

from population.errors import InputError
from ssl_models import ImageData, load_data
from ssl_models.catalogue import DATA_SETS

Images = np.ndarray


def drawn(name: str, n: int, part: int) -> tuple[Images, np.ndarray]:
    """Images (n, C, H, W) and labels, different for the two parts."""
    row = DATA_SETS[name]
    rng = np.random.default_rng(part)
    shape = (n, row.channels, row.resolution, row.resolution)
    labels = np.arange(n) * 7 % row.classes
    return rng.integers(0, 256, shape).astype(np.uint8), labels


def idx(values: np.ndarray) -> bytes:
    """The format of MNIST's files: type 8 is uint8; all numbers are big-endian."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(root: Path, folder: str, parts: list[tuple[Images, np.ndarray]]) -> None:
    (root / folder / "raw").mkdir(parents=True)
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        (root / folder / "raw" / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[:, 0]))
        (root / folder / "raw" / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))


def mnist(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    write_mnist(root, "MNIST", parts)


def fashion_mnist(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    write_mnist(root, "FashionMNIST", parts)


def usps(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    for name, (images, labels) in zip(("usps.bz2", "usps.t.bz2"), parts, strict=True):
        # Half a level more, since the reader cuts off what is behind the point.
        values = (images.reshape(len(images), 256) + 0.5) / 255 * 2 - 1
        lines = [
            " ".join([str(label + 1), *(f"{i}:{v:.6f}" for i, v in enumerate(row, 1))])
            for row, label in zip(values, labels, strict=True)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))


def write_pickle(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def cifar10(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    folder = root / "cifar-10-batches-py"
    (images, labels), test = parts
    for i, chosen in enumerate(np.array_split(np.arange(len(images)), 5)):
        batch = {"data": images[chosen].reshape(len(chosen), -1), "labels": labels[chosen].tolist()}
        write_pickle(folder / f"data_batch_{i + 1}", batch)
    write_pickle(
        folder / "test_batch", {"data": test[0].reshape(len(test[0]), -1), "labels": test[1].tolist()}
    )
    write_pickle(folder / "batches.meta", {"label_names": [f"kind {i}" for i in range(10)]})


def cifar100(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    for name, (images, labels) in zip(("train", "test"), parts, strict=True):
        coarse = [0] * len(labels)
        content = {
            "data": images.reshape(len(images), -1),
            "fine_labels": labels.tolist(),
            "coarse_labels": coarse,
        }
        write_pickle(root / "cifar-100-python" / name, content)
    write_pickle(root / "cifar-100-python" / "meta", {"fine_label_names": [f"kind {i}" for i in range(100)]})


def svhn_files(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    for name, (images, labels) in zip(("train", "test"), parts, strict=True):
        numbers = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        scipy.io.savemat(
            root / f"{name}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": numbers}, do_compression=True
        )


def stl10_files(root: Path, parts: list[tuple[Images, np.ndarray]]) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, (images, labels) in zip(("train", "test"), parts, strict=True):
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # column by column
        (folder / f"{name}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")


WRITERS: dict[str, Callable[[Path, list[tuple[Images, np.ndarray]]], None]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "usps": usps,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn_files,
    "stl10": stl10_files,
}
NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
    "usps": tuple("0123456789"),
    "cifar10": tuple(f"kind {i}" for i in range(10)),
    "cifar100": tuple(f"kind {i}" for i in range(100)),
    "svhn": tuple("0123456789"),
    "stl10": (
        "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
    ),
}  # fmt: skip


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a file that is there for an intact one."""
    for module in (cifar, stl10, svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))  # noqa: PTH113


def load(name: str, root: Path | None) -> ImageData:
    return load_data(name, data_dir=root, download=False)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("unchecked")
def test_a_data_set_is_read_from_its_own_files(name: str, tmp_path: Path) -> None:
    parts = [drawn(name, 12, 0), drawn(name, 7, 1)]
    WRITERS[name](tmp_path, parts)
    data = load(name, tmp_path)
    assert data.name == name
    for prefix, split, (images, labels) in zip(
        ("train", "test"), (data.train, data.test), parts, strict=True
    ):
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        np.testing.assert_array_equal(split.images, images)
        assert split.samples.label.dtype == np.int64
        np.testing.assert_array_equal(split.samples.label, labels)
        assert split.samples.sample_id.tolist() == [f"{prefix}/{i:05d}" for i in range(len(images))]
        assert split.samples.class_names == NAMES[name]
    row = DATA_SETS[name]
    assert (data.in_channels, data.resolution, data.num_classes) == (
        row.channels,
        row.resolution,
        row.classes,
    )
    assert all((tmp_path / place).exists() for place in row.places)
    assert data.fingerprint() == load(name, tmp_path).fingerprint()


@pytest.mark.parametrize("name", WRITERS)
def test_absent_data_are_an_input_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} needs --data-dir"):
        load(name, None)
    for place in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError) as caught:
            load(name, place)
        message = str(caught.value)
        assert message.startswith(f"no intact {name} in {place} (expected {DATA_SETS[name].places[0]}")
        assert "--download fetches it" in message
        assert "\n" not in message
    assert not list(tmp_path.iterdir())


# Of the others only the checksum tells.
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "usps", "stl10"])
@pytest.mark.usefixtures("unchecked")
def test_a_cut_file_is_an_input_error(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path, [drawn(name, 12, 0), drawn(name, 7, 1)])
    for path in [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size]:
        whole = path.read_bytes()
        for length in (0, len(whole) - 1, len(whole) // 2):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=f"no intact {name} in"):
                load(name, tmp_path)
        path.write_bytes(whole)
    load(name, tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10"])
def test_a_file_with_another_checksum_is_an_input_error(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path, [drawn(name, 12, 0), drawn(name, 7, 1)])
    with pytest.raises(InputError, match=f"no intact {name} in"):
        load(name, tmp_path)


def test_labels_that_are_no_classes_are_damage(tmp_path: Path) -> None:
    images, labels = drawn("mnist", 12, 0)
    mnist(tmp_path, [(images, labels + 4), (images, labels)])
    with pytest.raises(InputError, match="no intact mnist in"):
        load("mnist", tmp_path)


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.usps, "download_url", unreachable)
    with pytest.raises(InputError, match=r"no intact usps in .*no route to host \(OSError\)"):
        load_data("usps", data_dir=tmp_path, download=True)


@pytest.mark.parametrize("name", ["mnist", "cifar100", "svhn", "stl10"])
@pytest.mark.usefixtures("unchecked")
def test_reading_takes_little_more_memory_than_the_images(name: str, tmp_path: Path) -> None:
    n = 400
    WRITERS[name](tmp_path, [drawn(name, n, 0), drawn(name, 10, 1)])
    tracemalloc.start()
    data = load(name, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The file's bytes and the array at once; what numpy and scipy import counts too.
    assert peak < 2.3 * data.train.images.nbytes + 3_000_000


def test_mnist_itself(tmp_path: Path) -> None:
    source = os.environ.get("PIE_TEST_DATA")
    if not source:
        pytest.skip("PIE_TEST_DATA names no folder with mnist")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in Path(source, "mnist", "MNIST", "raw").glob("*.gz"):
        with gzip.open(path) as packed, (raw / path.stem).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    data, row = load("mnist", tmp_path), DATA_SETS["mnist"]
    assert data.train.images.shape == (row.train, 1, 28, 28)
    assert data.test.images.shape == (row.test, 1, 28, 28)
    assert data.test.samples.label[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mean, std = data.channel_statistics()
    assert mean == [pytest.approx(0.1307, abs=1e-4)]
    assert std == [pytest.approx(0.3081, abs=1e-4)]
