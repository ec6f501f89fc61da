import torch
from torch import Tensor, nn

from compressors.repair.operations import Watch, observe


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.never = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = x.tanh()
        y = self.once(stream)
        y += stream
        y.relu_()
        y = self.twice(self.twice(y))
        y = torch.add(y, stream, alpha=2.0)
        return y + stream[:1]


def test_values_are_followed_through_changes_in_place() -> None:
    seen = observe(Block(), ["once", "twice", "never"], torch.rand(2, 3))
    assert set(seen.calls) == {"once"}
    call = seen.calls["once"]
    addition = seen.only_user(call.gives)
    assert addition is not None
    assert addition.name == "add"
    assert call.length == 2
    # The stream is what the layer takes, was made before it, and has four users.
    assert addition.takes == (call.gives, call.takes)
    assert seen.made[call.takes] == (0, 0)
    assert call.number == 1
    assert seen.only_user(call.takes) is None
    rectified = seen.only_user(addition.makes[0])
    assert rectified is not None
    assert rectified.name == "relu"
    assert rectified.makes[0][0] == call.gives[0]
    assert rectified.makes[0][1] == call.gives[1] + 2
    names = [o.name for users in seen.users.values() for o in users]
    assert names.count("scaled or broadcast add") == 4  # two operations of two values
    (returned,) = seen.returned
    assert seen.made[returned][0] == max(number for number, _ in seen.made.values())


def test_returned_values_have_no_only_user() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x.tanh()
            return y, y.relu()

    seen = observe(Both(), [], torch.rand(2, 3))
    tanh = next(value for value, place in seen.made.items() if place == (0, 0))
    assert [o.name for o in seen.users[tanh]] == ["relu"]
    assert seen.only_user(tanh) is None


def test_layers_called_by_keyword_are_not_known() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=x)

    assert observe(Keyword(), ["fc"], torch.rand(2, 3)).calls == {}


def test_unseen_operations_are_not_counted() -> None:
    seen = []
    x = torch.rand(3)
    with Watch(seen.append) as watch:
        x.sin()
        with watch.unseen():
            x.cos()
        x.tan()
    assert [(o.number, o.name) for o in seen] == [(0, "sin"), (1, "tan")]
