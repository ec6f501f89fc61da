"""Small networks with their coupled channels written down by hand, and edits of them made by hand."""

from dataclasses import dataclass

import numpy as np
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


def plant_copies(model, groups, *, share=0.5, seed=0):
    """Makes a random half of each group's channels copies of the other half.

    The columns that read a channel are divided between it and its copy, so that their sum is kept.

    Returns:
        Per group the copy's number for each channel that has one, as pairs (original, copy).
    """
    state, generator, pairs = model.state_dict(), torch.Generator().manual_seed(seed), {}
    for group in groups:
        order = torch.randperm(group.size, generator=generator)
        half = group.size // 2
        for original, copy in zip(order[:half].tolist(), order[half:].tolist(), strict=True):
            pairs.setdefault(group.name, []).append((original, copy))
            for layer in group.producers:
                for name in (f"{layer}.weight", f"{layer}.bias"):
                    if name in state:
                        state[name][copy] = state[name][original]
            for layer, start in group.norms:
                for name in ("weight", "bias", "running_mean", "running_var"):
                    state[f"{layer}.{name}"][start + copy] = state[f"{layer}.{name}"][start + original]
            for layer, start, often in group.readers:
                weight = state[f"{layer}.weight"]
                for j in range(often):
                    a, b = start + original * often + j, start + copy * often + j
                    weight[:, b] = weight[:, a] * (1 - share)
                    weight[:, a] *= share
    return pairs


def simulate(model, groups, clusters):
    """Hooks on the dense network that do what merging and removing channels should do.

    Outputs of layers become means over clusters, norms use mean parameters, and readers see zeros
    where a channel is removed.

    Returns:
        The hooks' handles.
    """
    handles, norms = [], {}
    for group in groups:
        labels = torch.as_tensor(clusters[group.name])
        same = (labels[:, None] == labels[None, :]).to(next(model.parameters()))
        mean = same / same.sum(1, keepdim=True)

        def average(module, _, out, mean=mean):
            axis = -1 if isinstance(module, nn.Linear) else 1
            return torch.movedim(torch.movedim(out, axis, -1) @ mean.T, -1, axis)

        handles += [model.get_submodule(p).register_forward_hook(average) for p in group.producers]
        for layer, start in group.norms:
            module = model.get_submodule(layer)
            names = ("weight", "bias", "running_mean", "running_var")
            values = norms.setdefault(layer, {n: getattr(module, n).detach().clone() for n in names})
            for value in values.values():
                value[start : start + group.size] = mean @ value[start : start + group.size]
        removed = torch.nonzero(labels < 0).flatten()
        for layer, start, often in group.readers:
            positions = (start + removed[:, None] * often + torch.arange(often)).flatten()

            def blank(module, inputs, positions=positions):
                axis = -1 if isinstance(module, nn.Linear) else 1
                return inputs[0].index_fill(axis, positions, 0)

            handles.append(model.get_submodule(layer).register_forward_pre_hook(blank))
    for layer, values in norms.items():

        def normalise(module, inputs, _, values=values):
            shape = [1, -1] + [1] * (inputs[0].dim() - 2)
            v = {name: value.reshape(shape) for name, value in values.items()}
            standard = (inputs[0] - v["running_mean"]) / torch.sqrt(v["running_var"] + module.eps)
            return v["weight"] * standard + v["bias"]

        handles.append(model.get_submodule(layer).register_forward_hook(normalise))
    return handles


def draw_clusters(groups, *, seed, kept=None):
    """Clusters for any groups, each within one block of its group's channels.

    Without ``kept`` they are unequal, of random number (one for all blocks of a size), and some channels
    are removed. With it they are of nearly equal size, and ``max(1, round(n kept))`` channels stay.
    """
    rng, clusters = np.random.default_rng(seed), {}
    for group in groups:
        labels, numbers = np.arange(group.size), {}
        for block in np.unique(group.blocks[group.blocks >= 0]):
            channels = rng.permutation(np.flatnonzero(group.blocks == block))
            n = len(channels)
            if kept is None:
                k = numbers.setdefault(n, int(rng.integers(max(1, n // 3), max(2, n))))
                chosen = np.append(np.arange(k), rng.integers(-1, k, n - k))
            else:
                chosen = np.arange(n) % max(1, round(n * kept))
            labels[channels] = np.where(chosen < 0, -1, channels[chosen])
        clusters[group.name] = labels
    return clusters


def plant_clusters(model, groups, clusters):
    """Makes the channels of a cluster copies of its first one, and the columns that read them equal."""
    for group in groups:
        for piece in group.slices:
            view, index = _rows(model.state_dict()[piece.tensor], piece)
            rows = view[index]
            for members in _members(piece, clusters[group.name]).values():
                rows[members] = rows[members[0]].clone()
            view[index] = rows


def simulate_clusters(model, groups, clusters):
    """Turns a dense network into one of the same shapes that computes what a merge of it should compute.

    What makes a channel becomes the mean over its cluster, in every channel of the cluster. What reads
    channels stays, except that removed ones are read with weights of zero.
    """
    for group in groups:
        for piece in group.slices:
            view, index = _rows(model.state_dict()[piece.tensor], piece)
            rows = view[index]
            for (cluster, _), members in _members(piece, clusters[group.name]).items():
                if piece.role == "out" and cluster >= 0:
                    rows[members] = rows[members].mean(0)
                elif piece.role == "in" and cluster < 0:
                    rows[members] = 0
            view[index] = rows


def _rows(tensor, piece):
    """A view of a tensor, and the index into it that gives one row per position of a slice."""
    positions = torch.from_numpy(piece.positions)
    if piece.conv_groups == 1:
        return tensor.movedim(piece.axis, 0), (positions,)
    # Group j of a convolution has the j-th part of the rows, and columns of its own.
    view = tensor.unflatten(0, (piece.conv_groups, -1)).movedim(2, 1)
    return view, (positions // view.shape[1], positions % view.shape[1])


def _members(piece, clusters):
    """Rows of a slice that meet: the first appearances of a cluster's channels, the second ones, ..."""
    seen, members = {}, {}
    for row, channel in enumerate(piece.channels.tolist()):
        seen[channel] = seen.get(channel, 0) + 1
        members.setdefault((int(clusters[channel]), seen[channel]), []).append(row)
    return members


def _double_linear(function):
    """Linear layer, a function of its outputs, linear layer."""
    return lambda: Net(lambda net, x: net.head(function(net.a(x))), a=nn.Linear(5, 8), head=nn.Linear(8, 3))


def _attention(net, x):
    weights = torch.softmax(net.q(x) @ net.k(x).transpose(1, 2), -1)
    return net.head((weights @ net.v(x)).mean(1))


def _squeeze(net, x):
    y = net.a(x)
    gate = net.up(F.relu(net.down(y.mean((2, 3))))).sigmoid()
    return net.head((y * gate[:, :, None, None]).mean((2, 3)))


ROW, IMAGE, SEQUENCE = inputs(2, 5), inputs(2, 3, 8, 8), inputs(2, 4, 5)

#: Networks whose layer ``a`` makes channels that no edit of weights can merge: (build, inputs).
MIXING = {
    "softmax": (_double_linear(lambda y: y.softmax(1)), ROW),
    "layer norm": (_double_linear(lambda y: F.layer_norm(y, y.shape[-1:])), ROW),
    "layer norm without scale": (_double_linear(nn.LayerNorm(8, elementwise_affine=False)), ROW),
    "group norm without scale": (
        lambda: Net(
            lambda net, x: net.head(F.group_norm(net.a(x), 1).mean((2, 3))),
            a=conv(3, 8), head=nn.Linear(8, 3),
        ),
        IMAGE,
    ),
    "length one": (_double_linear(lambda y: F.normalize(y, dim=1)), ROW),
    "minus their mean": (_double_linear(lambda y: y - y.mean(1, keepdim=True)), ROW),
    "reversed": (_double_linear(lambda y: y + y.flip(1)), ROW),
    "times fixed numbers": (_double_linear(lambda y: y * torch.arange(8.0)), ROW),
    "an output too": (
        lambda: Net(
            lambda net, x: (net.head(F.relu(net.a(x))), net.a(x)), a=nn.Linear(5, 8), head=nn.Linear(8, 3)
        ),
        ROW,
    ),
    "hard-coded size": (
        lambda: Net(
            lambda net, x: net.head(net.a(x).view(-1, 6 * 64)), a=conv(3, 6), head=nn.Linear(6 * 64, 3)
        ),
        IMAGE,
    ),
    "added to the input": (
        lambda: Net(lambda net, x: net.head((x + net.a(x)).mean((2, 3))), a=conv(3, 3), head=nn.Linear(3, 3)),
        IMAGE,
    ),
}  # fmt: skip


def _tied():
    model = Net(
        lambda net, x: net.head(F.relu(net.b(F.relu(net.a(x))))),
        a=nn.Linear(5, 5), b=nn.Linear(5, 5), head=nn.Linear(5, 3),
    )  # fmt: skip
    model.b.weight = model.a.weight
    return model


def _two_names():
    layer = nn.Linear(5, 5)
    return Net(
        lambda net, x: net.head(F.relu(net.b(F.relu(net.a(x))))), a=layer, b=layer, head=nn.Linear(5, 3)
    )


#: Networks that may be merged or left dense, but never wrongly: (build, inputs).
HARD = {
    "depthwise": (
        lambda: nn.Sequential(
            conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 6, 1), nn.ReLU(), conv(6, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        IMAGE,
    ),
    "grouped": (
        lambda: nn.Sequential(
            conv(3, 8), nn.ReLU(), conv(8, 8, groups=2), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 3)
        ),
        IMAGE,
    ),
    "layer norm": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        ),
        ROW,
    ),
    "group norm": (
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 3)),
        IMAGE,
    ),
    "instance norm": (
        lambda: Net(
            lambda net, x: net.last(F.instance_norm(net.mid(F.instance_norm(net.a(x)).relu())).relu()),
            a=conv(3, 8), mid=conv(8, 6), last=conv(6, 3),
        ),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), conv(6, 4), nn.ReLU(),
            conv(4, 3),
        ),
        IMAGE,
    ),
    "multihead attention": (
        lambda: transformer()[0],
        SEQUENCE,
    ),
    "attention": (
        lambda: Net(
            _attention, q=nn.Linear(5, 8), k=nn.Linear(5, 8), v=nn.Linear(5, 8), head=nn.Linear(8, 3)
        ),
        SEQUENCE,
    ),
    "permuted and flattened": (
        lambda: Net(
            lambda net, x: net.head(net.a(x).permute(0, 2, 3, 1).flatten(1)),
            a=conv(3, 4), head=nn.Linear(256, 3),
        ),
        IMAGE,
    ),
    "concatenated and flattened": (
        lambda: Net(
            lambda net, x: net.head(torch.cat([net.a(x), net.b(x)], 1).flatten(1)),
            a=conv(3, 4), b=conv(3, 6), head=nn.Linear(640, 3),
        ),
        IMAGE,
    ),
    "concatenated and added": (
        lambda: Net(
            lambda net, x: net.head(F.relu(torch.cat([net.a(x), net.b(x)], 1) + net.c(x)).mean((2, 3))),
            a=conv(3, 4), b=conv(3, 4), c=conv(3, 8), head=nn.Linear(8, 3),
        ),
        IMAGE,
    ),
    "concatenated with itself": (
        lambda: Net(
            lambda net, x: net.head(F.relu(torch.cat([net.a(x), net.a(x)], 1))),
            a=nn.Linear(5, 4), head=nn.Linear(8, 3),
        ),
        ROW,
    ),
    "halves": (
        lambda: Net(
            lambda net, x: net.head(net.a(x)[:, :4] * net.a(x)[:, 4:]),
            a=nn.Linear(5, 8), head=nn.Linear(4, 3),
        ),
        ROW,
    ),
    "shuffled": (
        lambda: Net(
            lambda net, x: net.head(nn.functional.channel_shuffle(net.a(x), 2)), a=conv(3, 8), head=conv(8, 3)
        ),
        IMAGE,
    ),
    "pixels shuffled": (lambda: nn.Sequential(conv(3, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 3)), IMAGE),
    "squeeze and excitation": (
        lambda: Net(_squeeze, a=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=nn.Linear(8, 3)),
        IMAGE,
    ),
    "outer product": (
        lambda: Net(
            lambda net, x: net.head(torch.einsum("bi,bj->bij", net.a(x), net.b(x)).flatten(1)),
            a=nn.Linear(5, 4), b=nn.Linear(5, 4), head=nn.Linear(16, 3),
        ),
        ROW,
    ),
    "tied": (_tied, ROW),
    "one layer, two names": (_two_names, ROW),
    "slope per channel": (lambda: nn.Sequential(nn.Linear(5, 8), nn.PReLU(8), nn.Linear(8, 3)), ROW),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(),
            nn.Linear(6, 3),
        ),
        ROW,
    ),
    "unused layer": (
        lambda: Net(
            lambda net, x: net.head(F.relu(net.a(x))), a=nn.Linear(5, 8), extra=nn.Linear(8, 4),
            head=nn.Linear(8, 3),
        ),
        ROW,
    ),
    "recurrent": (
        lambda: Net(
            lambda net, x: net.head(net.r(net.a(x))[0][:, -1]),
            a=nn.Linear(5, 8), r=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 3),
        ),
        SEQUENCE,
    ),
}  # fmt: skip
