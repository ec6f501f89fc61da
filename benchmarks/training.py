"""How fast members are trained, beside lightly's documented loop: ``python -m benchmarks.training``.

All figures are of one run on an idle machine; read the ratios. Loops are timed after a first epoch, which
pays for what torch does once.
"""

import copy
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, stack_module_state
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from merging import merge_channels
from population.samples import SampleSet
from ssl_models.backbones import Classifier
from ssl_models.datasets import load_data
from ssl_models.predict import batches, predict
from ssl_models.presets import preset
from ssl_models.training import train
from ssl_models.zoo import build_model

THREADS = len(os.sched_getaffinity(0))
STACKED = 4


@dataclass(frozen=True)
class Setting:
    """Images and a ResNet-18 to train on them with SimCLR."""

    title: str
    images: Tensor
    width: int
    batch: int

    def network(self) -> Classifier:
        """A ResNet-18 with random weights, channels last."""
        network = build_model(
            "simclr_r18", num_classes=10, in_channels=self.images.shape[1], width=self.width, seed=0
        )
        return network.to(memory_format=torch.channels_last)


def main() -> None:
    """Prints throughputs and their ratios, then members per hour, stacked members, and predictions."""
    digits = load_data("digits", data_dir=None, download=False)
    colours = np.random.default_rng(0).integers(0, 256, (512, 3, 32, 32), dtype=np.uint8)
    settings = [
        Setting("digits 16x16, width 16", torch.from_numpy(digits.train.images), 16, 128),
        Setting("colour 32x32, width 64", torch.from_numpy(colours), 64, 128),
    ]
    peak = convolution_peak()
    print(f"{THREADS} threads; convolution peak {peak / 1e9:.0f} GFLOP/s in bfloat16, forward and backward")
    print("| SimCLR, ResNet-18, images/s | lightly, documented | tuned | here | ratios | share of the peak |")
    print("|---|---|---|---|---|---|")
    for setting in settings:
        documented, tuned = (lightly_speed(setting, documented=choice) for choice in (True, False))
        ours = our_speed(setting)
        rates = f"{documented:.0f} | {tuned:.0f} | {ours:.0f} | {ours / documented:.1f}, {ours / tuned:.1f}"
        share = ours * training_flops(setting) / peak
        print(f"| {setting.title} | {rates} | {share:.0%} |", flush=True)
    members_per_hour(settings[0])
    memory(settings)
    stacked(settings[0])
    predictions(Setting("digits", torch.from_numpy(digits.test.images), 16, 500), digits.test.samples)


class Pictures(Dataset[tuple[list[Tensor], int]]):
    """Images as lightly's tutorial reads them: one picture at a time, two views of each."""

    def __init__(self, images: Tensor) -> None:
        pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.pictures = [Image.fromarray(p[..., 0] if p.shape[2] == 1 else p) for p in pixels]
        self.views = SimCLRTransform(input_size=images.shape[2], gaussian_blur=0.0)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        """Two views of an image; the normalisation makes three channels of a grey one."""
        return self.views(self.pictures[index]), index


def lightly_epochs(setting: Setting, *, documented: bool) -> Iterator[None]:
    """The loop of lightly's SimCLR tutorial (PyTorch), an epoch at a time.

    Args:
        setting: images and network.
        documented: batches of 256 from 8 workers, as the tutorial has it; else what was fastest on 2 cores:
            smaller batches, loaded in this process.
    """
    torch.manual_seed(0)
    batch, workers = (256, 8) if documented else (setting.batch, 0)
    pictures = Pictures(setting.images)
    loader = DataLoader(pictures, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
    backbone = build_model("simclr_r18", num_classes=10, in_channels=3, width=setting.width, seed=0).encoder
    head = SimCLRProjectionHead(backbone.embedding, backbone.embedding, 128)
    criterion, model = NTXentLoss(), nn.Sequential(backbone, head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    while True:
        for views, _ in loader:
            loss = criterion(model(views[0]), model(views[1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        yield


def lightly_speed(setting: Setting, *, documented: bool) -> float:
    """Images a second of lightly's loop."""
    epochs = lightly_epochs(setting, documented=documented)
    next(epochs)
    batch = 256 if documented else setting.batch
    return len(setting.images) // batch * batch / timed(lambda: next(epochs))


def our_speed(setting: Setting) -> float:
    """Images a second of the training loop."""
    spec = replace(preset("digits", "simclr").training, batch_size=setting.batch)
    network = setting.network()
    labels = torch.zeros(len(setting.images), dtype=torch.int64)

    def run(epochs: int) -> None:
        train(network, "simclr", setting.images, labels, spec=replace(spec, epochs=epochs), seed=0)

    run(1)
    # What a call does once is in both, and leaves with the difference.
    few, many = (min(timed(lambda e=epochs: run(e)) for _ in range(2)) for epochs in (1, 3))
    return 2 * (len(setting.images) // setting.batch * setting.batch) / (many - few)


def training_flops(setting: Setting) -> float:
    """Operations that one image takes in training: two views, forward and twice that backward."""
    with FlopCounterMode(display=False) as counter:
        setting.network().encoder(torch.rand(1, *setting.images.shape[1:]))
    return 2 * 3 * float(counter.get_total_flops())


def convolution_peak() -> float:
    """Most operations a second of a convolution in training, over channels and sizes of a ResNet-18."""
    best = 0.0
    for channels, side in ((64, 32), (128, 16), (256, 8), (512, 4)):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(
            torch.bfloat16, memory_format=torch.channels_last
        )
        x = torch.rand(256, channels, side, side).to(torch.bfloat16, memory_format=torch.channels_last)
        x.requires_grad_()

        def step(conv: nn.Conv2d = conv, x: Tensor = x) -> None:
            y = conv(x)
            y.backward(y.detach())

        step()
        flops = 3 * 2 * 9 * channels * channels * 256 * side * side
        best = max(best, flops / min(timed(step) for _ in range(5)))
    return best


def members_per_hour(setting: Setting) -> None:
    """Members of the digits preset an hour: the tutorial's loop, one process, and a process per core."""
    epochs = preset("digits", "simclr").training.epochs

    def tutorial() -> None:
        loop = lightly_epochs(setting, documented=False)
        for _ in range(epochs):
            next(loop)

    rows = {"lightly's loop (tuned), one after the other": 3600 / timed(tutorial)}
    for workers in (1, THREADS):
        seconds = {}
        for members in (2, 2 + 2 * THREADS):
            with tempfile.TemporaryDirectory() as store:
                command = [
                    str(Path(sys.executable).with_name("pie")), "train", "--members", str(members),
                    "--workers", str(workers), "--store", store, "--quiet",
                ]  # fmt: skip
                seconds[members] = timed(
                    lambda command=command: subprocess.run(command, check=True, capture_output=True)
                )
        few, many = sorted(seconds)
        name = f"pie train, {workers} process{'es' if workers > 1 else ''} of one thread"
        rows[name] = 3600 * (many - few) / (seconds[many] - seconds[few])
    print("\n| SimCLR members on the digits | an hour | ratio |\n|---|---|---|")
    base = next(iter(rows.values()))
    for name, rate in rows.items():
        print(f"| {name} | {rate:.0f} | {rate / base:.1f} |", flush=True)


def memory(settings: Sequence[Setting]) -> None:
    """What a member takes while it trains, above a process that has loaded all and trains nothing."""
    print("\n| one member in training | MiB |\n|---|---|")
    for setting in settings:
        # A process of its own: the peak of a process never falls.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"| {setting.title} | {pool.apply(_peak, (setting,)):.0f} |", flush=True)


def _peak(setting: Setting) -> float:
    spec = replace(preset("digits", "simclr").training, batch_size=setting.batch, epochs=1)
    labels = torch.zeros(len(setting.images), dtype=torch.int64)
    torch.set_num_threads(1)
    # Two images load all that torch loads when it is first used.
    train(setting.network(), "simclr", setting.images[:2], labels[:2], spec=spec, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(setting.network(), "simclr", setting.images, labels, spec=spec, seed=0)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def stacked(setting: Setting) -> None:
    """Encoders side by side in one vectorised call, and one after the other: forward and backward."""
    networks = [setting.network().encoder for _ in range(STACKED)]
    views = torch.rand(2 * setting.batch, *setting.images.shape[1:])
    bare = [copy.deepcopy(n) for n in networks]
    for network in bare:
        replace_all_batch_norm_modules_(
            network
        )  # running statistics are changed in place, which vmap is not for
    parameters, buffers = stack_module_state(bare)

    def together() -> None:
        def features(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
            return functional_call(bare[0], (p, b), (views,))

        with torch.autocast("cpu", torch.bfloat16):
            torch.func.vmap(features)(parameters, buffers).float().square().mean().backward()

    def apart() -> None:
        for network in networks:
            x = views.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                network(x).float().square().mean().backward()

    print(f"\n| {STACKED} encoders, forward and backward | threads | s | ratio |\n|---|---|---|---|")
    for threads in sorted({1, THREADS}):
        torch.set_num_threads(threads)
        times = {}
        for name, run in (("one after the other", apart), ("stacked (vmap)", together)):
            run()
            times[name] = min(timed(run) for _ in range(3))
            ratio = times["one after the other"] / times[name]
            print(f"| {name} | {threads} | {times[name]:.2f} | {ratio:.2f} |", flush=True)
    torch.set_num_threads(THREADS)


def predictions(setting: Setting, samples: SampleSet) -> None:
    """Two populations on the test images: network by network, in one pass, and with a DataLoader."""
    dense = [setting.network().eval() for _ in range(STACKED)]
    merged = [
        merge_channels(n, torch.rand(1, *setting.images.shape[1:]), amount=0.5, seed=0).model for n in dense
    ]
    networks = [*dense, *(m.to(memory_format=torch.channels_last) for m in merged)]

    def apart() -> None:
        for network in networks:
            predict(network, setting.images, samples)

    def together() -> None:
        with torch.inference_mode():
            for batch in batches(setting.images):
                for network in networks:
                    network(batch).float().softmax(1)

    def loader() -> None:
        pictures = TensorDataset(setting.images.float().div(255))
        with torch.inference_mode():
            for network in networks:
                for (batch,) in DataLoader(pictures, batch_size=setting.batch):
                    network(batch).softmax(1).argmax(1)

    title = f"{STACKED} dense and {STACKED} merged networks, {len(setting.images)} images"
    print(f"\n| {title} | s | ratio |\n|---|---|---|")
    times = {}
    for name, run in (
        ("DataLoader, network by network", loader),
        ("network by network", apart),
        ("one pass", together),
    ):
        run()
        times[name] = min(timed(run) for _ in range(5))
        print(
            f"| {name} | {times[name]:.2f} | {times['DataLoader, network by network'] / times[name]:.2f} |",
            flush=True,
        )


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
