"""Small networks whose channels meet in ways that are hard to follow, or that no merge can keep."""

import torch
import torch.nn.functional as F
from networks import Net, conv, inputs, transformer
from torch import nn


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
