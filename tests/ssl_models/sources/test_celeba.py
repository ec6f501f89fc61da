import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import celeba

from population.errors import InputError
from population.spec import AttributeSpec
from ssl_models import ImageData, load_data

ATTRIBUTES = ("Bald", "Blond_Hair", "Smiling")
#: Part (0 train, 1 valid, 2 test) and attributes of each face.
FACES = [
    (0, (-1, 1, -1)), (2, (1, -1, 1)), (0, (-1, -1, 1)), (1, (1, 1, 1)), (2, (-1, 1, 1)), (0, (1, 1, -1)),
]  # fmt: skip


def grey_of(index: int) -> int:
    return 40 * index + 10


def write(root: Path) -> Path:
    """CelebA's files with six faces of one grey, whose first and last rows have another one."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(FACES))]
    for index, name in enumerate(names):
        pixels = np.full((218, 178, 3), grey_of(index), dtype=np.uint8)
        pixels[:16] = pixels[-16:] = 255 - grey_of(index)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    rows = [f"{n} {part}" for n, (part, _) in zip(names, FACES, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} 5\n" for n in names))
    for file_name, header in (
        ("list_bbox_celeba.txt", "image_id x_1 y_1 width height"),
        ("list_landmarks_align_celeba.txt", "lefteye_x lefteye_y righteye_x righteye_y"),
    ):
        body = "".join(f"{n} 1  2 3 4\n" for n in names)
        (folder / file_name).write_text(f"{len(names)}\n{header}\n{body}")
    body = "".join(
        f"{n} {' '.join(f'{v:2d}' for v in values)}\n" for n, (_, values) in zip(names, FACES, strict=True)
    )
    # the original's header line ends with a blank
    (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\n{' '.join(ATTRIBUTES)} \n{body}")
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(celeba, "check_integrity", lambda path, md5=None: os.path.isfile(path))  # noqa: PTH113
    return write(tmp_path)


def load(name: str, root: Path | None) -> ImageData:
    return load_data(name, data_dir=root, download=False)


def test_groups_are_further_attributes(root: Path) -> None:
    spec = AttributeSpec(group_columns=("Bald",))
    data = load_data("celeba:Blond_Hair", data_dir=root, download=False, attributes=spec)
    assert data.fingerprint() == load("celeba:Blond_Hair", root).fingerprint()
    assert data.train.samples.groups["Bald"].tolist() == ["not Bald", "not Bald", "Bald"]
    assert data.test.samples.groups["Bald"].tolist() == ["Bald", "not Bald"]
    for name, message in (("Bold", "unknown attribute of celeba 'Bold'"), ("Smiling", "all 2 images")):
        spec = AttributeSpec(group_columns=(name,))
        with pytest.raises(InputError, match=message):
            load_data("celeba", data_dir=root, download=False, attributes=spec)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_attribute_is_the_class(attribute: str, root: Path) -> None:
    data = load(f"celeba:{attribute}", root)
    column = ATTRIBUTES.index(attribute)
    assert data.name == f"celeba:{attribute}"
    for split, part, prefix in ((data.train, 0, "train"), (data.test, 2, "test")):
        chosen = [i for i, (where, _) in enumerate(FACES) if where == part]
        assert split.samples.sample_id.tolist() == [f"{prefix}/{i + 1:06d}" for i in chosen]
        assert split.samples.label.tolist() == [int(FACES[i][1][column] == 1) for i in chosen]
        assert split.samples.class_names == (f"not {attribute}", attribute)


def test_blond_hair_is_the_default(root: Path) -> None:
    assert load("celeba", root).fingerprint() == load("celeba:Blond_Hair", root).fingerprint()


def test_faces_are_the_middle_square_at_64_pixels(root: Path) -> None:
    data = load("celeba", root)
    assert data.train.images.shape == (3, 3, 64, 64)
    assert data.test.images.shape == (2, 3, 64, 64)
    for split in (data.train, data.test):
        for image, sample in zip(split.images, split.samples.sample_id, strict=True):
            grey = grey_of(int(sample.split("/")[1]) - 1)
            # 20 of 218 rows are cut off on each side, and with them the stripes
            assert np.abs(image.astype(int) - grey).max() <= 2


def test_what_is_not_there_is_an_input_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown attribute of celeba 'Smilin' .did you mean 'Smiling'"):
        load("celeba:Smilin", root)
    with pytest.raises(InputError, match="celeba needs --data-dir"):
        load("celeba", None)
    with pytest.raises(InputError, match=r"no intact celeba in .*expected celeba in it"):
        load("celeba", tmp_path / "gone")
    folder = root / "celeba"
    (folder / "img_align_celeba" / "000002.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*000002\.jpg"):
        load("celeba", root)
    (folder / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"cannot read the image .*000002\.jpg"):
        load("celeba", root)
    attributes = folder / "list_attr_celeba.txt"
    attributes.write_text(attributes.read_text().replace("-1", "x"))
    with pytest.raises(InputError, match="no intact celeba in"):
        load("celeba", root)
    attributes.unlink()
    with pytest.raises(InputError, match="no intact celeba in"):
        load("celeba", root)


def test_the_archive_alone_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "celeba").mkdir()
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w"):
        pass
    with pytest.raises(InputError, match="no intact celeba in"):
        load("celeba", tmp_path)
