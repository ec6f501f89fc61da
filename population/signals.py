"""Work that an interruption must not cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stops_held() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait until the end of the block; processes started in it never get them."""
    caught: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # processes inherit it
    # The mask is this thread's alone: another one may get the signal, and handlers run in the main thread.
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, hold) for number in STOPS} if in_main else {}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for held in caught:
            signal.raise_signal(held)
