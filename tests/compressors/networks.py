"""Small networks, most with their coupled channels written down by hand, and what they are made of."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ssl_models import build_model


@dataclass(frozen=True)
class Coupled:
    """Channels that belong together: who makes, normalises and reads them.

    Readers are (layer, first position, positions per channel), norms (layer, first position).
    """

    size: int
    producers: tuple[str, ...]
    norms: tuple[tuple[str, int], ...]
    readers: tuple[tuple[str, int, int], ...]

    @property
    def name(self):
        return self.producers[0]


class Net(nn.Module):
    """A network from its parts and a function of them."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def conv(made_from, outputs, **more):
    return nn.Conv2d(made_from, outputs, 3, padding=1, **more)


def inputs(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def randomize(model, seed):
    """Random numbers for everything, in eval mode: fresh norms would hide errors, as they do nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name.endswith((".mean", ".std")):
            continue
        values = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.copy_(0.5 + values)
        elif tensor.dim() == 1:
            tensor.copy_(values - 0.5)
        else:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.copy_(bound * (2 * values - 1))
    return model.eval()


def resnet18_groups(width, prefix, head):
    """Coupled channels of a ResNet-18, from the picture of the network."""
    groups = []
    for stage in (1, 2, 3, 4):
        n, here = width * 2 ** (stage - 1), f"{prefix}layer{stage}"
        for block in (0, 1):
            inner = f"{here}.{block}"
            groups.append(
                Coupled(n, (f"{inner}.conv1",), ((f"{inner}.bn1", 0),), ((f"{inner}.conv2", 0, 1),))
            )
        convs, norms = [f"{here}.0.conv2", f"{here}.1.conv2"], [f"{here}.0.bn2", f"{here}.1.bn2"]
        if stage == 1:
            convs, norms = [f"{prefix}conv1", *convs], [f"{prefix}bn1", *norms]
        else:
            convs, norms = [*convs, f"{here}.0.downsample.0"], [*norms, f"{here}.0.downsample.1"]
        readers = [f"{here}.1.conv1"]
        if stage == 1:
            readers.append(f"{here}.0.conv1")
        if stage < 4:
            readers += [f"{prefix}layer{stage + 1}.0.conv1", f"{prefix}layer{stage + 1}.0.downsample.0"]
        else:
            readers.append(head)
        groups.append(
            Coupled(n, tuple(convs), tuple((m, 0) for m in norms), tuple((r, 0, 1) for r in readers))
        )
    return groups


def resnet(seed=0, width=4):
    model = build_model("simclr_r18", num_classes=3, in_channels=1, width=width, seed=seed)
    return randomize(model, seed), inputs(2, 1, 8, 8), resnet18_groups(width, "encoder.", "head")


def lenet(seed=0):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip
    groups = [
        Coupled(6, ("0",), (), (("3", 0, 1),)),
        Coupled(8, ("3",), (), (("6", 0, 4),)),
        Coupled(12, ("6",), (), (("8", 0, 1),)),
    ]
    return randomize(model, seed), inputs(2, 3, 8, 8), groups


def mlp(seed=0):
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Tanh(),
        nn.Linear(6, 3),
    )  # fmt: skip
    groups = [Coupled(8, ("0",), (("1", 0),), (("4", 0, 1),)), Coupled(6, ("4",), (), (("6", 0, 1),))]
    return randomize(model, seed), inputs(4, 5), groups


def concatenated(seed=0):
    def forward(net, x):
        y = F.relu(net.norm(torch.cat([net.a(x), net.b(x)], 1)))
        return net.head(net.c(y).mean((2, 3)))

    model = Net(
        forward, a=conv(3, 4), b=conv(3, 6), norm=nn.BatchNorm2d(10), c=conv(10, 6), head=nn.Linear(6, 3)
    )
    groups = [
        Coupled(4, ("a",), (("norm", 0),), (("c", 0, 1),)),
        Coupled(6, ("b",), (("norm", 4),), (("c", 4, 1),)),
        Coupled(6, ("c",), (), (("head", 0, 1),)),
    ]
    return randomize(model, seed), inputs(2, 3, 8, 8), groups


def reused(seed=0):
    """One layer is used twice, on one stream."""
    model = Net(
        lambda net, x: net.head(F.relu(net.a(F.relu(net.a(F.relu(net.stem(x))))))),
        stem=nn.Linear(5, 8), a=nn.Linear(8, 8), head=nn.Linear(8, 3),
    )  # fmt: skip
    groups = [Coupled(8, ("stem", "a"), (), (("a", 0, 1), ("head", 0, 1)))]
    return randomize(model, seed), inputs(4, 5), groups


def two_outputs(seed=0):
    def forward(net, x):
        y = F.relu(net.a(x))
        return net.head(y), {"second": net.other(y)}

    model = Net(forward, a=nn.Linear(5, 8), head=nn.Linear(8, 3), other=nn.Linear(8, 2))
    groups = [Coupled(8, ("a",), (), (("head", 0, 1), ("other", 0, 1)))]
    return randomize(model, seed), inputs(4, 5), groups


def tokens(seed=0):
    def forward(net, x):
        y = F.gelu(net.a(x).flatten(2).transpose(1, 2))
        return net.head(F.gelu(net.mix(y)).mean(1))

    model = Net(forward, a=conv(3, 4), mix=nn.Linear(4, 6), head=nn.Linear(6, 3))
    groups = [Coupled(4, ("a",), (), (("mix", 0, 1),)), Coupled(6, ("mix",), (), (("head", 0, 1),))]
    return randomize(model, seed), inputs(2, 3, 8, 8), groups


def transformer(seed=0):
    """Attention of two heads of four channels, between linear layers."""
    model = Net(
        lambda net, x: net.head(net.m(*[net.a(x)] * 3, need_weights=False)[0].mean(1)),
        a=nn.Linear(5, 8), m=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 3),
    )  # fmt: skip
    return randomize(model, seed), inputs(2, 4, 5)


def lenet5(seed=0):
    """LeNet-5, whose convolutions end in maps of 5 x 5 that are flattened."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(),
        nn.Linear(84, 10),
    )  # fmt: skip
    return randomize(model, seed), inputs(2, 1, 28, 28)


def cats_and_skips(seed=0):
    """What a user may write: a skip, concatenations of what was added with what was not, two outputs."""

    def forward(net, x):
        y = F.relu(net.norm1(net.stem(x)))
        z = F.relu(net.norm2(net.b(F.relu(net.a(y)))) + y)
        both = torch.cat([z, F.silu(net.side(x)), y], 1)
        w = F.max_pool2d(net.mix(both), 2) * net.gate(F.avg_pool2d(both, 2)).sigmoid()
        return net.head(torch.cat([w.mean((2, 3)), z.amax((2, 3))], 1)), net.early(z.mean((2, 3)))

    model = Net(
        forward, stem=conv(3, 8), norm1=nn.BatchNorm2d(8), a=conv(8, 6), b=conv(6, 8),
        norm2=nn.BatchNorm2d(8), side=conv(3, 5), mix=conv(21, 10), gate=nn.Conv2d(21, 10, 1),
        head=nn.Linear(18, 3), early=nn.Linear(8, 2),
    )  # fmt: skip
    return randomize(model, seed), inputs(2, 3, 8, 8)


class CifarBlock(nn.Module):
    """Two convolutions, and a shortcut that pads with channels of zeros (He et al. 2016, option A).

    The padding is a module of its own or a line of ``forward``.
    """

    def __init__(self, before, after, stride, *, as_module):
        super().__init__()
        self.conv1, self.bn1 = conv(before, after, stride=stride, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = conv(after, after, bias=False), nn.BatchNorm2d(after)
        self.stride, self.zeros = stride, (after - before) // 2
        pads = as_module and self.zeros > 0
        self.shortcut = Net(lambda _, x, block=(stride, self.zeros): shorten(x, *block)) if pads else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.zeros:
            x = shorten(x, self.stride, self.zeros)
        return F.relu(y + x)


def shorten(x, stride, zeros):
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, zeros, zeros))


class CifarResNet(nn.Module):
    """ResNet of 6 n + 2 layers for CIFAR-10, with the names that trained ones have."""

    def __init__(self, depth, *, as_module):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            before, after = widths[stage - 1 : stage + 1]
            blocks = [CifarBlock(before, after, after // before, as_module=as_module)]
            while len(blocks) < (depth - 2) // 6:
                blocks.append(CifarBlock(after, after, 1, as_module=as_module))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


NETWORKS = {
    "resnet": resnet,
    "lenet": lenet,
    "mlp": mlp,
    "concatenated": concatenated,
    "reused": reused,
    "two_outputs": two_outputs,
    "tokens": tokens,
}


def outputs(model, x):
    """All output tensors in one row."""

    def flat(value):
        if isinstance(value, torch.Tensor):
            return [value.flatten()]
        return [t for v in (value.values() if isinstance(value, dict) else value) for t in flat(v)]

    with torch.no_grad():
        return torch.cat(flat(model(x)))


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())
