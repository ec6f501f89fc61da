"""The operations of a forward pass, one by one, and which values they take and make."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressors.running import run_model

#: What a tensor holds until it is changed in place: its id and torch's count of changes.
Value = tuple[int, int]


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass.

    Attributes:
        number: how many came before it.
        name: as torch names it, in place or not.
        takes: its tensors.
        makes: its results.
        results: the results themselves.
    """

    number: int
    name: str
    takes: tuple[Value, ...]
    makes: tuple[Value, ...]
    results: tuple[Tensor, ...]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every operation of a forward pass after it ran."""

    def __init__(self, see: Callable[[Operation], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see
        self._blind = False
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and shows it."""
        kwargs = kwargs or {}
        if self._blind:
            return func(*args, **kwargs)
        tensors = tensors_in((args, kwargs))
        takes = tuple(value_of(t) for t in tensors)
        out = func(*args, **kwargs)
        results = tensors_in(out)
        # Torch counts a change in place after this method.
        changed = {id(t) for t in tensors} if func._schema.is_mutable else set()
        makes = tuple((id(t), t._version + (id(t) in changed)) for t in results)
        name = func.overloadpacket.__name__
        name = name if name.startswith("_") else name.rstrip("_")
        if name == "add" and (kwargs.get("alpha", 1) != 1 or any(t.shape != out.shape for t in tensors)):
            name = "scaled or broadcast add"
        with self.unseen():
            self._see(Operation(self.number, name, takes, makes, results))
        self.number += 1
        return out

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Operations inside the block are no part of the forward pass."""
        before, self._blind = self._blind, True
        try:
            yield
        finally:
            self._blind = before


def tensors_in(tree: Any) -> tuple[Tensor, ...]:
    """The tensors in nested lists, tuples and dictionaries."""
    return tuple(leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def value_of(tensor: Tensor) -> Value:
    """What a tensor holds now; only tensors that are kept have ids of their own."""
    return id(tensor), tensor._version


@dataclass(frozen=True)
class Call:
    """The only call of a module.

    Attributes:
        number: of operations before it.
        takes: its first argument.
        length: of that argument's first axis.
        gives: its output.
    """

    number: int
    takes: Value
    length: int
    gives: Value


@dataclass(frozen=True, eq=False)
class Observed:
    """What one forward pass shows.

    Attributes:
        calls: of the modules that were called exactly once, with a tensor by position.
        made: per value the number of the operation that made it, and which of its results it was.
        users: per value the operations that took it.
        returned: values that the model returned.
    """

    calls: dict[str, Call]
    made: dict[Value, tuple[int, int]] = field(default_factory=dict)
    users: dict[Value, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    returned: set[Value] = field(default_factory=set)

    def only_user(self, value: Value) -> Operation | None:
        """The operation that takes a value, if it is the only one and the model does not return it."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.returned else None


def observe(model: nn.Module, names: Collection[str], inputs: Tensor) -> Observed:
    """Runs a model once without gradients and notes its operations, and the calls of some modules.

    Raises:
        InputError: if the model does not accept the inputs.
    """
    seen = Observed({})
    counts: Counter[str] = Counter()
    starts: dict[str, tuple[int, Value, int]] = {}
    kept: list[Tensor] = []  # so that no id is used twice

    def before(module: nn.Module, args: tuple[Any, ...], *, name: str) -> None:
        counts[name] += 1
        if args:
            starts[name] = watch.number, value_of(args[0]), len(args[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor, *, name: str) -> None:
        if name in starts:
            seen.calls[name] = Call(*starts[name], value_of(output))

    def see(operation: Operation) -> None:
        kept.extend(operation.results)
        for value in operation.takes:
            seen.users[value].append(operation)
        seen.made.update((value, (operation.number, i)) for i, value in enumerate(operation.makes))

    watch = Watch(see)
    handles = []
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(partial(before, name=name)))
        handles.append(module.register_forward_hook(partial(after, name=name)))
    with watch:
        outputs = run_model(model, inputs, what="calibration")
    for handle in handles:
        handle.remove()
    seen.returned.update(value_of(t) for t in tensors_in(outputs))
    for name, count in counts.items():
        if count > 1:
            seen.calls.pop(name, None)
    return seen
