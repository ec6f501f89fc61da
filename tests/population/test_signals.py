import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from population.signals import STOPS, stops_held


class StopError(Exception):
    pass


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Numbers of the signals that the handlers got, which raise as well."""
    numbers: list[int] = []

    def stop(number: int, frame: object) -> None:
        numbers.append(number)
        raise StopError

    before = {number: signal.signal(number, stop) for number in STOPS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def send_in_the_block(number: int, heard: list[int]) -> None:
    with stops_held():
        os.kill(os.getpid(), number)
        assert not any(len(heard) for _ in range(10_000))


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("listeners", [0, 1], ids=["one thread", "another thread that may get it"])
def test_a_signal_waits_until_the_block_ends(heard: list[int], number: int, listeners: int) -> None:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(listeners)]
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(StopError):
            send_in_the_block(number, heard)
        assert heard == [number]
        with pytest.raises(StopError):  # and is heard at once again
            signal.raise_signal(number)
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_nothing_happens_without_a_signal(heard: list[int]) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with stops_held():
        pass
    assert heard == []
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_a_process_that_is_started_in_the_block_gets_none() -> None:
    program = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    with stops_held():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted(STOPS)}\n"


def test_other_threads_may_hold_them_too(heard: list[int]) -> None:
    def hold() -> None:
        with stops_held():
            seen.append(set(STOPS) <= signal.pthread_sigmask(signal.SIG_BLOCK, []))

    seen: list[bool] = []
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [True]
