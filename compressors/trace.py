"""Which channels of a network meet: labels that travel through one forward pass.

Every layer gives its output channels fresh labels. Each operation then does to the labels what it does
to the values: moving data moves labels, adding or multiplying two tensors makes the labels of meeting
elements equal, zero padding labels nothing. Nothing is assumed about an operation that is not listed:
the channels that enter it are marked as fixed, with the reason.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from compressors.attention import is_plain_attention

Labels = NDArray[np.int64]
Role = Literal["out", "in"]

#: Label of elements that are zero whatever the weights are.
ZERO = -1
#: Label of elements that no merge may change: inputs, constants, outputs.
FIXED = 0


class Channels:
    """Labels of channels, those that have met made equal (union-find), and why some are fixed."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._reasons: dict[int, str] = {}

    def fresh(self, n: int) -> Labels:
        """New labels, shape (n,)."""
        start = len(self._parent)
        self._parent += range(start, start + n)
        return np.arange(start, start + n)

    def find(self, label: int) -> int:
        """The label that stands for all that have met this one."""
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self, labels: Labels) -> Labels:
        """``find`` of each label; ZERO stays."""
        unique, inverse = np.unique(labels, return_inverse=True)
        found = np.array([ZERO if u == ZERO else self.find(int(u)) for u in unique], dtype=np.int64)
        return found[inverse].reshape(labels.shape)

    def meet(self, a: Labels, b: Labels, reason: str) -> None:
        """Makes labels equal, pair by pair; what meets FIXED is fixed for the given reason."""
        pairs = np.stack([a.ravel(), b.ravel()])
        for first, second in np.unique(pairs[:, (pairs != ZERO).all(0)], axis=1).T:
            self._join(int(first), int(second), reason)

    def _join(self, a: int, b: int, reason: str) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        if a == b:
            return
        if a == FIXED:
            self.fix(np.array([b]), reason)
            return
        self._parent[b] = a
        if b in self._reasons:
            self._reasons.setdefault(a, self._reasons[b])

    def fix(self, labels: Labels, reason: str) -> None:
        """Marks channels that have to stay as they are."""
        for label in _distinct(labels):
            if label > FIXED:
                self._reasons.setdefault(self.find(label), reason)

    def reason(self, root: int) -> str | None:
        """Why a channel is fixed, or None."""
        return self._reasons.get(root)


@dataclass(eq=False)
class Padding:
    """Channels of zeros that are put before and after a tensor's channels.

    Attributes:
        module: the innermost module without parameters whose output is the padded tensor; None where
            there is none.
        axis: axis of the channels.
        before: number of zero channels before.
        after: number of zero channels after.
        meets: label of the channel that each position of the padded tensor is added to; ZERO where
            none is.
    """

    module: str | None
    axis: int
    before: int
    after: int
    meets: Labels


@dataclass(eq=False)
class Trace:
    """What one forward pass shows.

    Attributes:
        channels: the labels.
        axes: per (tensor name, axis, role) the label of each position.
        rows: per weight that makes channels the axis of its rows, in forward order.
        norms: per norm layer the weight that makes its input, or None.
        paddings: zero paddings of channels.
        conv_groups: per weight of a grouped convolution the number of its groups; its columns' labels
            are those of all groups, one after the other.
        attention: names of torch's attention modules that were used.
    """

    channels: Channels = field(default_factory=Channels)
    axes: dict[tuple[str, int, Role], Labels] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    norms: dict[str, str | None] = field(default_factory=dict)
    paddings: list[Padding] = field(default_factory=list)
    conv_groups: dict[str, int] = field(default_factory=dict)
    attention: list[str] = field(default_factory=list)


def trace_channels(model: nn.Module, example_inputs: Tensor) -> Trace:
    """Runs a model once and follows its channels.

    Args:
        model: in eval mode, with parameters that require gradients; it is not changed.
        example_inputs: a batch that the model accepts; its first entry is used.

    Returns:
        Where channels are made, read and normalised. The model's inputs and outputs are fixed.
    """
    tracer = _Tracer(model)
    # With gradients on, modules do not take fused inference paths whose parts could not be seen.
    with torch.enable_grad(), tracer.watching(model), tracer:
        outputs = model(example_inputs[:1])
    for output in _tensors(outputs):
        tracer.fix(tracer.labels_of(output), "its channels are the model's outputs")
    return tracer.trace


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of each operation to the labels of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        # The tensors are kept with what is known of them, so that no id is used twice.
        self._labels: dict[int, tuple[Tensor, Labels]] = {}
        self._transposed: dict[int, tuple[Tensor, str]] = {}
        self._padded: dict[int, Padding] = {}
        self._maker: dict[int, str] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Notes which modules do nothing but pad, and which are attention, while inside the block."""

        def note(module: nn.Module, inputs: Any, output: Any, *, name: str) -> None:
            padding = self._padded.get(id(output))
            if padding is not None and padding.module is None and name and not list(module.parameters()):
                padding.module = name
            if is_plain_attention(module) and name not in self.trace.attention:
                self.trace.attention.append(name)

        handles = [m.register_forward_hook(partial(note, name=n)) for n, m in model.named_modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and its rule."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        name = name if name.startswith("_") else name.rstrip("_")  # in place or not is the same here
        if name in {"t", "transpose", "permute"} and args[0].dim() == 2 and id(args[0]) in self._names:
            self._transposed[id(out)] = (out, self._names[id(args[0])])
        elif name in _RULES:
            _RULES[name](self, _Call(name, func, args, kwargs, out))
        else:
            self._give_up(
                _Call(name, func, args, kwargs, out), f"its channels enter {name}, which is not understood"
            )
        return out

    def labels_of(self, tensor: Tensor) -> Labels:
        """Label of every element. What is neither computed from channels nor a parameter is fixed."""
        if id(tensor) not in self._labels:
            name = self._names.get(id(tensor))
            labels = np.broadcast_to(np.int64(FIXED), tuple(tensor.shape))
            if name is not None and tensor.numel() > 1:
                # A parameter that is added or multiplied: its last axis holds the channels.
                axis = max(d for d in range(tensor.dim()) if tensor.shape[d] > 1)
                own = self._axis(name, axis, "out", tensor.shape[axis])
                labels = _along(own, axis, tuple(tensor.shape))
            self._labels[id(tensor)] = (tensor, labels)
        return self._labels[id(tensor)][1]

    def _tracked(self, tensor: Tensor) -> bool:
        return id(tensor) in self._labels or id(tensor) in self._names

    def put(self, tensor: Tensor, labels: Labels | np.int64) -> None:
        """Sets the labels of a tensor, in the form that takes the least memory."""
        full = np.broadcast_to(labels, tuple(tensor.shape))
        self._labels[id(tensor)] = (tensor, np.broadcast_to(_keep(full, _varying(full)), full.shape))

    def _axis(self, tensor: str, axis: int, role: Role, n: int) -> Labels:
        """Labels of the positions along an axis of a parameter, fresh at first."""
        if (tensor, axis, role) not in self.trace.axes:
            self.trace.axes[tensor, axis, role] = self.trace.channels.fresh(n)
        return self.trace.axes[tensor, axis, role]

    def fix(self, labels: Labels, reason: str) -> None:
        """Marks channels that have to stay as they are."""
        self.trace.channels.fix(labels, reason)

    def _give_up(self, call: "_Call", reason: str) -> None:
        sources = [t for t in _tensors((call.args, call.kwargs)) if self._tracked(t)]
        for source in sources:
            self.fix(self.labels_of(source), reason)
        if sources:
            # One label for all of the result hands the reason on to the channels that meet it.
            result = self.trace.channels.fresh(1)
            self.fix(result, reason)
            for out in _tensors(call.out):
                self.put(out, result[0])

    def move(self, call: "_Call") -> None:
        """Data is moved: labels are moved by the same operation."""
        sources = [t for t in _tensors(call.args) if self._tracked(t)]
        if not sources:
            return
        labelled = tree_map_only(Tensor, lambda t: torch.from_numpy(self.labels_of(t).copy()), call.args)
        before = [self.labels_of(t) for t in sources]
        for out, moved in zip(_tensors(call.out), _tensors(call.func(*labelled, **call.kwargs)), strict=True):
            labels = moved.numpy()
            if len(_varying(labels)) > 1:
                self.fix(labels, "its channels are divided by a reshape")
            if call.name in _CUTS and not _distinct(before[0]) <= _distinct(labels):
                self.fix(before[0], "its channels are split at a fixed position")
            self.put(out, labels)
            if len(sources) == 1 and id(sources[0]) in self._maker:
                self._maker[id(out)] = self._maker[id(sources[0])]

    def cat(self, call: "_Call") -> None:
        """Concatenation, of channels or along another axis that all parts share their channels on."""
        parts, axis = call.args[0], call.args[1] if len(call.args) > 1 else 0
        axis %= call.out.dim()
        labels = [self.labels_of(t) for t in parts if t.numel()]
        if any(axis in _varying(part) for part in labels) or not any(_varying(part) for part in labels):
            self.move(call)
            return
        first = _keep(labels[0], _varying(labels[0]))
        for part in labels[1:]:
            self.trace.channels.meet(
                first, _keep(part, _varying(part)), "its channels meet inputs or constants"
            )
        self.put(call.out, first)

    def pad(self, call: "_Call") -> None:
        """Constant padding. Borders of a map belong to its channel; further channels are zero."""
        source, widths = call.args[0], list(call.args[1])
        value = call.args[2] if len(call.args) > 2 else 0
        labels = self.labels_of(source)
        amounts = [(0, 0)] * source.dim()
        for axis in _varying(labels):
            place = 2 * (source.dim() - 1 - axis)
            if place < len(widths):
                amounts[axis] = (widths[place], widths[place + 1])
        if min(map(min, amounts)) < 0:
            self._give_up(call, "its channels are cropped at a fixed position")
            return
        kept = _keep(labels, _varying(labels))
        padded = np.pad(kept, amounts, constant_values=ZERO if value == 0 else FIXED)
        self.put(call.out, padded)
        for axis, (before, after) in enumerate(amounts):
            if (before or after) and value == 0:
                padding = Padding(None, axis, before, after, np.full(call.out.shape[axis], ZERO))
                self.trace.paddings.append(padding)
                self._padded[id(call.out)] = padding

    def elementwise(self, call: "_Call") -> None:
        """Every element of the result depends on the elements at its place alone."""
        tensors = [t for t in _tensors((call.args, call.kwargs)) if t.numel() > 1 or self._tracked(t)]
        if not any(self._tracked(t) for t in tensors):
            return
        shape = tuple(call.out.shape)
        full = [np.broadcast_to(self.labels_of(t), shape) for t in tensors]
        axes = {axis for part in full for axis in _varying(part)}
        parts = [_keep(part, axes) for part in full]
        merged = parts[0]
        for part in parts[1:]:
            self.trace.channels.meet(merged, part, "its channels meet inputs or constants")
            if call.name == "mul":
                merged = np.where((merged == ZERO) | (part == ZERO), ZERO, merged)
            else:
                merged = np.where(merged == ZERO, part, merged)
        for tensor in tensors:
            padding = self._padded.get(id(tensor))
            if padding is not None and len(tensors) == 2 and call.name in {"add", "sub"}:
                padding.meets = _line(np.broadcast_to(merged, shape), padding.axis)
        if call.name not in _KEEP_ZERO and not (call.name in {"add", "sub"} and len(tensors) > 1):
            merged = np.where(merged == ZERO, FIXED, merged)
        self.put(call.out, merged)

    def softmax(self, call: "_Call") -> None:
        """Elementwise, unless channels are normalised against each other."""
        axis = call.args[1] % call.args[0].dim()
        if self._tracked(call.args[0]) and axis in _varying(self.labels_of(call.args[0])):
            self._give_up(call, "a softmax runs over its channels")
        else:
            self.elementwise(call)

    def spatial(self, call: "_Call") -> None:
        """Pooling and resizing of maps: each channel by itself."""
        source = call.args[0]
        if not self._tracked(source):
            return
        labels, varying = self.labels_of(source), _varying(self.labels_of(source))
        for out in _tensors(call.out):
            if out.dim() != source.dim() or any(out.shape[a] != source.shape[a] for a in varying):
                self._give_up(call, f"{call.name} runs over its channels")
                return
            self.put(out, _keep(labels, varying))

    def reduce(self, call: "_Call") -> None:
        """Means, sums and maxima over some axes."""
        source = call.args[0]
        if not self._tracked(source):
            return
        labels = self.labels_of(source)
        named = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
        axes = range(source.dim()) if named is None else [named] if isinstance(named, int) else named
        axes = {a % source.dim() for a in axes} or set(range(source.dim()))
        if axes & set(_varying(labels)):
            self._give_up(call, f"{call.name} runs over its channels")
            return
        kept = labels[tuple(slice(0, 1) if d in axes else slice(None) for d in range(source.dim()))]
        for out in _tensors(call.out):
            self.put(out, kept.reshape(tuple(out.shape)))

    def convolution(self, call: "_Call") -> None:
        """Columns read the input's channels, rows make new ones."""
        source, weight, bias, groups, transposed = *call.args[:3], call.args[8], call.args[6]
        name, labels = self._names.get(id(weight)), self.labels_of(source)
        if name is None or set(_varying(labels)) - {1}:
            self._give_up(call, "a convolution has computed weights or mixes its channels with other axes")
            return
        inputs, n = _line(labels, 1), call.out.shape[1]
        rows, columns = (1, 0) if transposed else (0, 1)
        if groups == 1:
            self._read(name, columns, inputs)
            made = self._make(name, rows, bias, n)
        elif not transposed and groups == source.shape[1] == n:
            made = self._make(name, rows, bias, n)
            self.trace.channels.meet(inputs, made, "its channels come from inputs or constants")
            if (inputs == ZERO).any():
                self.fix(made, "a depthwise convolution reads channels of zeros")
        else:
            made = self._make(name, rows, bias, n)
            if transposed:
                self.fix(np.append(inputs, made), "its channels belong to a grouped transposed convolution")
            else:
                self._read(name, columns, inputs)
                self.trace.conv_groups[name] = groups
        self.put(call.out, _along(made, 1, tuple(call.out.shape)))
        self._maker[id(call.out)] = name

    def linear(self, call: "_Call") -> None:
        """A matrix product with a transposed parameter, with or without a bias to add."""
        bias, source, weight = call.args[:3] if call.name == "addmm" else (None, *call.args[:2])
        _, name = self._transposed.get(id(weight), (None, None))
        labels = self.labels_of(source)
        if name is None or set(_varying(labels)) - {1}:
            self._give_up(call, "its channels enter a product of two tensors")
            return
        self._read(name, 1, _line(labels, 1))
        self.put(call.out, self._make(name, 0, bias, call.out.shape[1]))
        self._maker[id(call.out)] = name

    def _read(self, name: str, axis: int, inputs: Labels) -> None:
        """A weight's columns read channels; those that read zeros or inputs are bound to nothing."""
        first_use = (name, axis, "in") not in self.trace.axes
        columns = self._axis(name, axis, "in", len(inputs))
        if first_use:
            self.trace.axes[name, axis, "in"] = inputs
            return
        self.trace.channels.meet(columns, inputs, "the same weights read inputs or constants elsewhere")
        if ((columns == ZERO) != (inputs == ZERO)).any():
            self.fix(np.append(columns, inputs), "the same weights read zeros elsewhere")

    def _make(self, name: str, axis: int, bias: Tensor | None, n: int) -> Labels:
        """A weight's rows make channels, the same ones in each use."""
        made = self._axis(name, axis, "out", n)
        self.trace.rows.setdefault(name, axis)
        if bias is not None:
            if id(bias) in self._names:
                shared = self._axis(self._names[id(bias)], 0, "out", n)
                self.trace.channels.meet(made, shared, "its bias is fixed")
            else:
                self.fix(made, "its bias is computed")
        return made

    def batch_norm(self, call: "_Call") -> None:
        """One scale, shift, mean and variance per channel."""
        source, out = call.args[0], _tensors(call.out)[0]
        labels = self.labels_of(source)
        if set(_varying(labels)) - {1}:
            self._give_up(call, "a batch norm mixes its channels with other axes")
            return
        inputs = _line(labels, 1)
        for tensor in _tensors(call.args[1:5]):
            name = self._names.get(id(tensor))
            if name is None:
                self.fix(inputs, "its norm has computed parameters")
                continue
            self.trace.norms.setdefault(name.rpartition(".")[0], self._maker.get(id(source)))
            own = self._axis(name, 0, "out", len(inputs))
            self.trace.channels.meet(own, inputs, "its channels come from inputs or constants")
        if (inputs == ZERO).any():  # a norm makes other numbers of zeros
            inputs = np.where(inputs == ZERO, FIXED, inputs)
        self.put(out, _along(inputs, 1, tuple(out.shape)))

    def mixing_norm(self, call: "_Call") -> None:
        """Layer and group norms."""
        self._give_up(call, "a norm takes statistics over its channels")

    def restride(self, call: "_Call") -> None:
        """Another layout in memory, as pooling ends with; not if it is used to move data."""
        if tuple(call.args[1]) == tuple(self.labels_of(call.args[0]).shape):
            self.elementwise(call)
        else:
            self._give_up(call, "its channels are moved by as_strided")

    def attention(self, call: "_Call") -> None:
        """Scaled dot products of heads."""
        self._give_up(call, "attention heads have a fixed size")

    def constant(self, call: "_Call") -> None:
        """Makes numbers that depend on no channel."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One operation as it ran."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


# Operations by name, as torch names them after its composite ones are taken apart.
_CUTS = frozenset(["split", "split_with_sizes", "slice", "select", "unbind"])
_KEEP_ZERO = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "hardswish",
        "hardtanh",
        "tanh",
        "mish",
        "mul",
        "div",
        "neg",
        "abs",
        "native_dropout",
        "_to_copy",
    ]
)
_KINDS: dict[Callable[[_Tracer, _Call], None], str] = {
    _Tracer.move: """
        view _unsafe_view _reshape_alias alias permute transpose t expand unsqueeze squeeze clone detach
        contiguous flip roll repeat stack lift_fresh pixel_shuffle pixel_unshuffle channel_shuffle
    """,
    _Tracer.elementwise: """
        add sub maximum minimum sigmoid hardsigmoid softplus exp log sqrt rsqrt pow clamp clamp_min clamp_max
        erf addcmul threshold log_sigmoid celu selu sin cos square reciprocal
    """,
    _Tracer.softmax: "_softmax _log_softmax",
    _Tracer.spatial: """
        max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d
        max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d
        upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d
    """,
    _Tracer.reduce: "mean sum amax amin",
    _Tracer.linear: "addmm mm",
    _Tracer.batch_norm: "native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training",
    _Tracer.mixing_norm: "native_layer_norm native_group_norm",
    _Tracer.attention: """
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_attention_math
    """,
    _Tracer.constant: "empty zeros ones full arange new_zeros rand",
    _Tracer.restride: "as_strided",
    _Tracer.pad: "constant_pad_nd",
    _Tracer.convolution: "convolution",
    _Tracer.cat: "cat",
}
_RULES = {
    **{name: rule for rule, names in _KINDS.items() for name in names.split()},
    **dict.fromkeys(_CUTS, _Tracer.move),
    **dict.fromkeys(_KEEP_ZERO, _Tracer.elementwise),
}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _varying(labels: Labels) -> list[int]:
    """Axes along which labels are not all the same."""
    return [
        axis
        for axis, (size, stride) in enumerate(zip(labels.shape, labels.strides, strict=True))
        if size > 1 and stride != 0 and bool((labels != labels.take([0], axis)).any())
    ]


def _distinct(labels: Labels) -> set[int]:
    return set(np.unique(_keep(labels, _varying(labels))).tolist())


def _keep(labels: Labels, axes: Collection[int]) -> Labels:
    """The labels with size 1 along all other axes."""
    return labels[tuple(slice(None) if d in axes else slice(0, 1) for d in range(labels.ndim))]


def _line(labels: Labels, axis: int) -> Labels:
    """The labels along one axis, at the start of all others."""
    return labels[tuple(slice(None) if d == axis else 0 for d in range(labels.ndim))].copy()


def _along(labels: Labels, axis: int, shape: tuple[int, ...]) -> Labels:
    """Labels of one axis for all elements of a shape."""
    line: Labels = labels.reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return np.broadcast_to(line, shape)
