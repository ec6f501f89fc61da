import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from population.errors import InputError
from ssl_models import ImageData, load_data
from ssl_models.datasets import ImageSplit, check_data_name, display_name


def load(name: str, data_dir: Path | None = None) -> ImageData:
    return load_data(name, data_dir=data_dir, download=False)


def save(path: Path, *, mode: str = "L", size: tuple[int, int] = (64, 64), seed: int = 0) -> None:
    """An image that is told by its first pixel, which is ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels)).astype(np.uint8)
    pixels[0, 0] = seed
    Image.fromarray(pixels).save(path)


def make_folder(
    root: Path, *, n: int = 20, classes: tuple[str, ...] = ("cat", "dog"), mode: str = "L"
) -> Path:
    for c, name in enumerate(classes):
        for i in range(n):
            save(root / name / f"{i:03d}.png", mode=mode, seed=c * n + i)
    return root


def contents(split: ImageSplit) -> dict[str, tuple[int, bytes]]:
    """Label and pixels by id."""
    rows = zip(split.samples.sample_id, split.samples.label, split.images, strict=True)
    return {str(i): (int(label), image.tobytes()) for i, label, image in rows}


# --- digits


def test_digits_are_all_there_and_split_in_halves_by_class() -> None:
    data = load("digits")
    assert (data.name, data.in_channels, data.resolution, data.num_classes) == ("digits", 1, 16, 10)
    assert data.train.images.shape == (901, 1, 16, 16)
    assert data.test.images.shape == (896, 1, 16, 16)
    assert data.train.images.dtype == np.uint8
    whole = load_digits()
    rows = contents(data.train) | contents(data.test)
    assert sorted(rows) == [f"digits/{i:04d}" for i in range(1797)]
    assert [rows[f"digits/{i:04d}"][0] for i in range(1797)] == whole.target.tolist()
    for c in range(10):
        train, test = ((split.samples.label == c).sum() for split in (data.train, data.test))
        assert train - test in (0, 1)
    assert data.test.samples.class_names == tuple("0123456789")


def test_digits_are_enlarged_and_not_changed_otherwise() -> None:
    data = load("digits")
    whole = load_digits()
    for sample, image in zip(data.test.samples.sample_id[:20], data.test.images[:20], strict=True):
        small = whole.images[int(sample.removeprefix("digits/"))] * 255 / 16
        # bilinear enlargement by 2 keeps the mean of each 2x2 block near the pixel, and the range
        blocks = image[0].reshape(8, 2, 8, 2).mean((1, 3))
        assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.95
        assert image.max() <= small.max() + 1


def test_the_first_test_images_and_the_fingerprint_are_pinned() -> None:
    # Members in the store belong to this fingerprint; the split must not move.
    data = load("digits")
    assert data.test.samples.sample_id[:5].tolist() == [
        "digits/0010",
        "digits/0011",
        "digits/0012",
        "digits/0013",
        "digits/0014",
    ]
    assert data.fingerprint() == load("digits").fingerprint() == "6030716831002b76"


# --- names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit' .did you mean 'digits'"),
        ("cifar1000", "did you mean 'cifar100'"),
        ("celeba:", "did you mean 'celeba'"),
        ("mnist:x", "did you mean 'mnist'"),
        ("imagefolder:", "did you mean 'imagefolder:PATH'"),
        ("imagefolder", "did you mean 'imagefolder:PATH'"),
        ("", "unknown data set ''"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_data_name(name)
    with pytest.raises(InputError, match=message):
        load(name)


def test_names_for_reports_hold_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_name("digits") == "digits"
    assert display_name("celeba:Smiling") == "celeba:Smiling"
    assert display_name("imagefolder:/data/secret/pets/") == "imagefolder:pets"
    assert display_name("imagefolder:.") == f"imagefolder:{tmp_path.name}"


# --- image folders


def test_a_divided_folder_is_read_as_it_is(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets" / "train", n=4)
    make_folder(tmp_path / "pets" / "test", n=2)
    data = load(f"imagefolder:{tmp_path / 'pets'}")
    assert data.name == "imagefolder:pets"
    assert data.test.samples.class_names == ("cat", "dog")
    train, test = contents(data.train), contents(data.test)
    assert set(train) == {f"train/{c}/{i:03d}.png" for c in ("cat", "dog") for i in range(4)}
    assert set(test) == {f"test/{c}/{i:03d}.png" for c in ("cat", "dog") for i in range(2)}
    for rows in (train, test):
        for sample, (label, pixels) in rows.items():
            assert label == ("dog" in sample)
            expected = np.asarray(Image.open(tmp_path / "pets" / sample))
            assert pixels == expected.tobytes()


def test_val_stands_in_for_test(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", n=4)
    make_folder(tmp_path / "val", n=2)
    assert {i.split("/")[0] for i in contents(load(f"imagefolder:{tmp_path}").test)} == {"val"}
    make_folder(tmp_path / "test", n=2)
    assert {i.split("/")[0] for i in contents(load(f"imagefolder:{tmp_path}").test)} == {"test"}


def test_an_undivided_folder_gives_about_a_third_for_testing(tmp_path: Path) -> None:
    data = load(f"imagefolder:{make_folder(tmp_path, n=90)}")
    train, test = contents(data.train), contents(data.test)
    assert not set(train) & set(test)
    assert set(train) | set(test) == {f"{c}/{i:03d}.png" for c in ("cat", "dog") for i in range(90)}
    assert abs(len(test) - 60) < 4 * np.sqrt(180 * 2 / 9)


def test_adding_images_moves_no_others(tmp_path: Path) -> None:
    make_folder(tmp_path, n=20)
    before = load(f"imagefolder:{tmp_path}")
    make_folder(tmp_path, n=50)
    make_folder(tmp_path, n=20, classes=("bird",))
    after = load(f"imagefolder:{tmp_path}")
    assert set(contents(before.train)) < set(contents(after.train))
    assert set(contents(before.test)) < set(contents(after.test))


def test_the_folder_may_move(tmp_path: Path) -> None:
    first = load(f"imagefolder:{make_folder(tmp_path / 'a' / 'pets')}")
    shutil.move(tmp_path / "a" / "pets", tmp_path / "zoo")
    second = load(f"imagefolder:{tmp_path / 'zoo'}")
    assert first.fingerprint() == second.fingerprint()


def test_the_first_images_are_of_every_class(tmp_path: Path) -> None:
    # Batches of the first images must not hold one class alone: norm statistics are taken from them.
    make_folder(tmp_path / "train", n=60)
    make_folder(tmp_path / "test", n=30)
    data = load(f"imagefolder:{tmp_path}")
    for split in (data.train, data.test):
        for start in range(0, len(split.samples), 30):
            assert 5 <= split.samples.label[start : start + 30].sum() <= 25


def test_grey_images_stay_grey_and_a_mixture_becomes_colour(tmp_path: Path) -> None:
    make_folder(tmp_path / "grey", mode="L")
    assert load(f"imagefolder:{tmp_path / 'grey'}").in_channels == 1
    save(tmp_path / "grey" / "cat" / "colour.png", mode="RGB", seed=77)
    mixed = load(f"imagefolder:{tmp_path / 'grey'}")
    assert mixed.in_channels == 3
    assert mixed.train.images.shape[1:] == (3, 64, 64)
    for sample, (_, pixels) in contents(mixed.train).items():
        image = np.frombuffer(pixels, np.uint8).reshape(3, 64, 64)
        expected = np.asarray(Image.open(tmp_path / "grey" / sample).convert("RGB"))
        np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))


def test_black_and_white_is_grey_and_transparency_is_dropped(tmp_path: Path) -> None:
    make_folder(tmp_path)
    Image.fromarray(np.eye(64, dtype=bool)).save(tmp_path / "cat" / "bits.png")
    assert load(f"imagefolder:{tmp_path}").in_channels == 1
    save(tmp_path / "cat" / "clear.png", mode="RGBA")
    assert load(f"imagefolder:{tmp_path}").in_channels == 3


def test_the_shorter_side_is_scaled_and_the_centre_kept(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", n=3)
    make_folder(tmp_path / "test", n=3)
    wide = np.zeros((128, 512), dtype=np.uint8)
    wide[:, 192:320] = 200  # the middle square
    Image.fromarray(wide).save(tmp_path / "test" / "cat" / "wide.png")
    Image.fromarray(wide.T).save(tmp_path / "test" / "dog" / "tall.png")
    rows = contents(load(f"imagefolder:{tmp_path}").test)
    for sample in ("test/cat/wide.png", "test/dog/tall.png"):
        image = np.frombuffer(rows[sample][1], np.uint8).reshape(64, 64)
        assert (image[2:-2, 2:-2] == 200).all()


def test_folders_in_class_folders_are_read_and_other_files_are_not(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", n=3)
    make_folder(tmp_path / "test", n=3)
    save(tmp_path / "test" / "cat" / "deep" / "x.JPEG")
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "test" / ".cache").mkdir()
    assert set(contents(load(f"imagefolder:{tmp_path}").test)) == {
        "test/cat/deep/x.JPEG", *(f"test/{c}/00{i}.png" for c in ("cat", "dog") for i in range(3)),
    }  # fmt: skip


def absent(root: Path) -> str:
    return f"no such image folder: {root}/gone"


def empty(root: Path) -> str:
    (root / "gone").mkdir()
    return f"{root}/gone has no images in at least two class folders"


def a_file(root: Path) -> str:
    (root / "gone").write_text("")
    return f"no such image folder: {root}/gone"


def one_class(root: Path) -> str:
    make_folder(root / "gone", classes=("cat",))
    return f"{root}/gone has no images in at least two class folders"


def no_folders(root: Path) -> str:
    save(root / "gone" / "x.png")
    return f"{root}/gone has no images in at least two class folders"


def empty_class(root: Path) -> str:
    (make_folder(root / "gone") / "eel").mkdir()
    return f"class 'eel' in {root}/gone has too few images"


def single_images(root: Path) -> str:
    make_folder(root / "gone", n=1)
    return f"class 'cat' in {root}/gone has too few images"


def other_classes(root: Path) -> str:
    make_folder(root / "gone" / "train", n=2)
    make_folder(root / "gone" / "test", n=2, classes=("cat", "eel"))
    return f"{root}/gone/train and {root}/gone/test have different class folders"


def train_alone(root: Path) -> str:
    make_folder(root / "gone" / "train", n=2)
    make_folder(root / "gone" / "valid", n=2)
    return f"{root}/gone has a folder train of classes, but neither test nor val"


def no_classes_in_train(root: Path) -> str:
    for name in ("train", "test"):
        save(root / "gone" / name / "x.png")
    return f"{root}/gone/train has no images in at least two class folders"


def no_image(root: Path) -> str:
    (make_folder(root / "gone") / "cat" / "zz.png").write_text("this is text")
    return f"cannot read the image {root}/gone/cat/zz.png"


def no_bytes(root: Path) -> str:
    (make_folder(root / "gone") / "cat" / "zz.png").write_bytes(b"")
    return f"cannot read the image {root}/gone/cat/zz.png"


def truncated(root: Path) -> str:
    path = make_folder(root / "gone") / "cat" / "005.png"
    path.write_bytes(path.read_bytes()[:-800])
    return f"cannot read the image {path}"


def broken_chunk(root: Path) -> str:
    path = make_folder(root / "gone") / "cat" / "005.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR") - 1] = 0  # the length of the first chunk
    path.write_bytes(content)
    return f"cannot read the image {path}"


def broken_numbers(root: Path) -> str:
    path = make_folder(root / "gone") / "cat" / "zz.ppm"
    path.write_bytes(b"P3 2 2 255 1 2 x 4 5 6 7 8 9 1 2 3")
    return f"cannot read the image {path}"


def far_too_large(root: Path) -> str:
    path = make_folder(root / "gone") / "cat" / "zz.ppm"
    path.write_bytes(b"P6 99999 99999 255 ")
    return f"cannot read the image {path}"


def sixteen_bits(root: Path) -> str:
    path = make_folder(root / "gone") / "cat" / "zz.png"
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(path)
    return f"the image {path} has more than 8 bits a channel"


def foreign_letters(root: Path) -> str:
    make_folder(root / "gone")
    name = os.fsencode(root / "gone" / "cat") + b"/k\xe4tzchen.png"
    shutil.copy(root / "gone" / "cat" / "000.png", os.fsdecode(name))
    return "is not UTF-8"


@pytest.mark.parametrize(
    "make",
    [
        absent, empty, a_file, one_class, no_folders, empty_class, single_images, other_classes, train_alone,
        no_classes_in_train, no_image, no_bytes, truncated, broken_chunk, broken_numbers, far_too_large,
        sixteen_bits, foreign_letters,
    ],
)  # fmt: skip
def test_a_folder_that_does_not_do_is_an_input_error(tmp_path: Path, make: Callable[[Path], str]) -> None:
    message = make(tmp_path)
    with pytest.raises(InputError) as caught:
        load(f"imagefolder:{tmp_path / 'gone'}")
    assert message in str(caught.value)
    str(caught.value).encode()  # it can be printed


# --- CIFAR-10


@pytest.fixture(scope="module")
def cifar_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    source = os.environ.get("PIE_TEST_DATA")
    if source is None:
        pytest.skip("PIE_TEST_DATA names no folder with cifar10/unpack.py")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run(
        [sys.executable, f"{source}/cifar10/unpack.py", str(folder)], check=True, capture_output=True
    )
    yield folder
    shutil.rmtree(folder)


def test_cifar10_has_its_own_split(cifar_dir: Path) -> None:
    data = load("cifar10", cifar_dir)
    assert (data.name, data.in_channels, data.resolution, data.num_classes) == ("cifar10", 3, 32, 10)
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert data.test.samples.class_names[3] == "cat"
    for split, n in ((data.train, 5000), (data.test, 1000)):
        assert np.bincount(split.samples.label).tolist() == [n] * 10
    assert data.train.samples.sample_id[0] == "train/00000"
    assert data.test.samples.sample_id[-1] == "test/09999"
    # the first ten labels of the test batch, and CIFAR-10's well-known statistics
    assert data.test.samples.label[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    mean, std = data.channel_statistics()
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-4)


def test_a_damaged_cifar10_is_an_input_error(cifar_dir: Path, tmp_path: Path) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for path in (cifar_dir / "cifar-10-batches-py").iterdir():
        (batches / path.name).symlink_to(path)
    (batches / "data_batch_3").unlink()
    with pytest.raises(InputError, match=f"no intact cifar10 in {tmp_path}"):
        load("cifar10", tmp_path)
    content = bytearray((cifar_dir / "cifar-10-batches-py" / "data_batch_3").read_bytes())
    content[1000] ^= 1
    (batches / "data_batch_3").write_bytes(content)
    with pytest.raises(InputError, match="no intact cifar10"):
        load("cifar10", tmp_path)


def test_a_missing_cifar10_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar10 needs --data-dir"):
        load("cifar10")
    for place in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=f"no intact cifar10 in {place} .*--download fetches it"):
            load("cifar10", place)
    assert not list(tmp_path.iterdir())
