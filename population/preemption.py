"""Notice that a machine is wanted back: it waits for a point at which work can be left."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Comes before a time limit ends, and before a job is pre-empted.
NOTICE = signal.SIGUSR2


class Notice:
    """Whether notice was given, and what is to be done then.

    Attributes:
        given: whether it was.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.given = False
        self._leave = leave

    def answer(self) -> None:
        """Leaves if notice was given: what has to be kept is kept now. Does not come back then."""
        if self.given:
            self.given = False
            self._leave()


@contextmanager
def notices_held() -> Iterator[Notice]:
    """Lets a notice wait until it is answered, or for the end of the block.

    Notice is the signal SIGUSR2 where the program has a handler for it, as jobs of submitit do. The handler
    has the job queued again and ends the process by an exception, which it would raise between any two
    instructions; in this block ``Notice.answer`` alone calls it. Without a handler, or outside the main
    thread, nothing is held and no notice is given.
    """
    handler = _handler()
    if handler is None:
        yield Notice(lambda: None)
        return

    def leave() -> None:
        signal.signal(NOTICE, handler)
        signal.raise_signal(NOTICE)

    def hold(number: int, frame: FrameType | None) -> None:
        notice.given = True

    notice = Notice(leave)
    signal.signal(NOTICE, hold)
    try:
        yield notice
    finally:
        signal.signal(NOTICE, handler)
        notice.answer()


@contextmanager
def notices_passed_on() -> Iterator[None]:
    """Gives notice to processes that this one starts, too. Slurm may signal only what it started itself."""
    handler = _handler()
    if handler is None:
        yield
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        handler(number, frame)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, NOTICE)

    signal.signal(NOTICE, pass_on)
    try:
        yield
    finally:
        signal.signal(NOTICE, handler)


def _handler() -> Callable[[int, FrameType | None], object] | None:
    """What the program does when notice is given; None outside the main thread, where nothing can be told."""
    in_main = threading.current_thread() is threading.main_thread()
    found = signal.getsignal(NOTICE) if in_main else None
    return found if callable(found) else None
