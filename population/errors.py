"""Errors that the user can mend."""

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and what is allowed.

    The command line prints the message on one line and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Builds the error for a name outside a closed set, with the nearest allowed name.

    Args:
        kind: what is named, for example ``"model"``.
        name: the name as given.
        known: every allowed name.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return InputError(f"unknown {kind} {name!r}{hint}; allowed: {', '.join(names)}")


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a user's share of it.

    Told by the system's words, which libraries put into errors of their own without its number.
    """
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
