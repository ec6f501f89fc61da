"""What there is: every encoder and data set with its size. No torch, so that listing them is quick."""

from dataclasses import dataclass

#: Classes, channels and pixels for which parameters and operations are stated.
SIZED_CLASSES, SIZED_CHANNELS, SIZED_RESOLUTION = 10, 3, 32

#: Channels of the first convolution where nothing else is said: of a size for two CPU cores.
DEFAULT_WIDTH = 16


@dataclass(frozen=True)
class ArchitectureRow:
    """An encoder.

    Attributes:
        title: its name and source.
        published_width: channels of the first convolution in the paper.
        embedding: number of features at the default width.
        params: parameters of encoder and classifier at the default width, for 10 classes and colour.
        macs: multiply-accumulate operations for one image of 32x32 pixels, with the same.
    """

    title: str
    published_width: int
    embedding: int
    params: int
    macs: int


@dataclass(frozen=True)
class DataRow:
    """A data set.

    Attributes:
        title: its name and source.
        train: number of images to learn from; None where it depends on the user's files.
        test: number of images for comparisons.
        classes: number of classes.
        channels: 1 for grey images, 3 for colour.
        resolution: height and width in pixels, as the networks see them.
        places: files or folders below ``--data-dir`` where torchvision expects it; none where it is
            embedded or the user names the folder.
    """

    title: str
    train: int | None
    test: int | None
    classes: int | None
    channels: int | None
    resolution: int
    places: tuple[str, ...]


OBJECTIVES = {
    "supervised": "cross-entropy",
    "simclr": "SimCLR (Chen 2020)",
    "byol": "BYOL (Grill 2020)",
    "supcon": "SupCon (Khosla 2020)",
    "barlowtwins": "Barlow Twins (Zbontar 2021)",
}

ARCHITECTURES: dict[str, ArchitectureRow] = {
    "r18": ArchitectureRow("ResNet-18 (He 2016)", 64, 128, 701_466, 35_046_656),
    "r34": ArchitectureRow("ResNet-34 (He 2016)", 64, 128, 1_334_618, 72_795_392),
    "r50": ArchitectureRow("ResNet-50 (He 2016)", 64, 512, 1_484_186, 81_449_984),
    "wrn16_2": ArchitectureRow("WRN-16-2 (Zagoruyko 2016)", 16, 128, 691_674, 101_106_944),
    "vgg11_bn": ArchitectureRow("VGG-11 with norms (Simonyan 2015)", 64, 128, 579_786, 38_192_384),
    "mobilenet_v2": ArchitectureRow("MobileNetV2 (Sandler 2018)", 32, 1280, 697_258, 25_333_248),
}

DATA_SETS: dict[str, DataRow] = {
    "digits": DataRow("scikit-learn's digits", 901, 896, 10, 1, 16, ()),
    "mnist": DataRow("MNIST (LeCun 1998)", 60_000, 10_000, 10, 1, 28, ("MNIST/raw",)),
    "fashion_mnist": DataRow("Fashion-MNIST (Xiao 2017)", 60_000, 10_000, 10, 1, 28, ("FashionMNIST/raw",)),
    "usps": DataRow("USPS (Hull 1994)", 7_291, 2_007, 10, 1, 16, ("usps.bz2", "usps.t.bz2")),
    "cifar10": DataRow("CIFAR-10 (Krizhevsky 2009)", 50_000, 10_000, 10, 3, 32, ("cifar-10-batches-py",)),
    "cifar100": DataRow("CIFAR-100 (Krizhevsky 2009)", 50_000, 10_000, 100, 3, 32, ("cifar-100-python",)),
    "svhn": DataRow("SVHN (Netzer 2011)", 73_257, 26_032, 10, 3, 32, ("train_32x32.mat", "test_32x32.mat")),
    "stl10": DataRow("STL-10 (Coates 2011)", 5_000, 8_000, 10, 3, 96, ("stl10_binary",)),
    "celeba": DataRow("CelebA (Liu 2015)", 162_770, 19_962, 2, 3, 64, ("celeba",)),
    "imagefolder:PATH": DataRow("a folder for each class", None, None, None, None, 64, ()),
    "planted:SHARE": DataRow("digits, a planted minority", 901, 896, 10, 1, 16, ()),
    "unplanted:SHARE": DataRow("its control", 901, 896, 10, 1, 16, ()),
}
