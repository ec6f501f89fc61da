"""How much is to be removed where: what a user asks for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from compressors.blocks import SINGLE_CHANNEL
from compressors.groups import GroupSearch
from population.errors import InputError, unknown_name

SPENDS = ("uniform", "params", "macs")

_SKIPPED = "it is skipped by the budget"


@dataclass(frozen=True)
class Budget:
    """How an amount is spread over the channel groups of a model.

    Attributes:
        spend: ``uniform`` removes the same fraction of the channels of every group. ``params`` and
            ``macs`` remove that fraction of the whole model's parameters or multiply-accumulates,
            where it hurts least.
        amounts: fraction of channels to remove, in [0, 1), of groups that do not take part in that, by
            name.
        skip: names of groups that stay as they are.
        multiple: numbers of channels become multiples of this, at least one of it. Channels that cannot
            become one (see ``ChannelGroup.blocks``) are counted apart, and fewer than that stay all.

    Raises:
        InputError: if a value is outside its range.
    """

    spend: Literal["uniform", "params", "macs"] = "uniform"
    amounts: Mapping[str, float] = field(default_factory=dict)
    skip: Collection[str] = ()
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.spend not in SPENDS:
            raise unknown_name("budget", str(self.spend), SPENDS)
        for name, amount in self.amounts.items():
            if not 0 <= amount < 1:
                raise InputError(f"the budget's amount of {name!r} must be in [0, 1), not {amount}")
        if isinstance(self.skip, str):
            raise InputError(f"the budget's skip must be a collection of names, not {self.skip!r} alone")
        both = sorted({*self.skip} & self.amounts.keys())
        if both:
            raise InputError(f"the budget both skips {both[0]!r} and has an amount for it")
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise InputError(f"the budget's multiple must be a whole number from 1, not {self.multiple}")


def as_budget(budget: Budget | str) -> Budget:
    """A budget from itself or from what it spends; raises InputError for an unknown word."""
    return budget if isinstance(budget, Budget) else Budget(budget)  # type: ignore[arg-type]  # checked there


def groups_to_change(search: GroupSearch, budget: Budget, amount: float) -> GroupSearch:
    """Takes out the groups that the budget skips.

    Args:
        search: the groups of a model.
        budget: names that are skipped may be those of layers that are left dense anyway.
        amount: fraction to remove, in [0, 1).

    Raises:
        InputError: if the budget names a group that is not there or cannot be changed, or there is
            nothing to change because the layers have a single channel.
    """
    for name in (*budget.amounts, *budget.skip):
        _check_name(name, search, may_stay=name in budget.skip)
    single = [layer for layer, reason in search.left_dense.items() if reason == SINGLE_CHANNEL]
    if not search.groups and single and max(amount, *budget.amounts.values(), 0) > 0:
        raise InputError(f"there is nothing to merge or remove: {single[0]} has a single channel")
    groups = tuple(group for group in search.groups if group.name not in budget.skip)
    # The weights of attention heads belong to several groups, and only some may be skipped.
    changed = {weight for group in groups for weight in group.producers}
    skipped = {
        layer
        for group in search.groups
        if group.name in budget.skip
        for layer in (group.name, *(w.removesuffix(".weight") for w in group.producers if w not in changed))
    }
    return GroupSearch(groups, {**search.left_dense, **dict.fromkeys(sorted(skipped), _SKIPPED)})


def _check_name(name: str, search: GroupSearch, *, may_stay: bool) -> None:
    names = [group.name for group in search.groups]
    if name in names or (may_stay and name in search.left_dense):
        return
    if name in search.left_dense:
        raise InputError(
            f"the budget has an amount for {name!r}, which stays dense: {search.left_dense[name]}"
        )
    for group in search.groups:
        if f"{name}.weight" in group.producers:
            raise InputError(f"the channels of {name!r} belong to the group {group.name!r}; name that one")
    raise unknown_name("group in the budget", name, names)
