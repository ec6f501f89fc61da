import os
import signal
import threading
from collections.abc import Iterator

import pytest

from population.preemption import NOTICE, notices_held


class Left(Exception):  # noqa: N818 - as a job leaves
    pass


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Notices that the program's handler got, which leaves as that of a job does."""
    numbers: list[int] = []

    def leave(number: int, frame: object) -> None:
        numbers.append(number)
        raise Left

    before = signal.signal(NOTICE, leave)
    yield numbers
    signal.signal(NOTICE, before)


def give_notice() -> None:
    os.kill(os.getpid(), NOTICE)


def test_a_notice_waits_until_it_is_answered(heard: list[int]) -> None:
    with notices_held() as notice:
        assert not notice.given
        notice.answer()
        give_notice()
        assert notice.given
        assert heard == []
        with pytest.raises(Left):
            notice.answer()
    assert heard == [NOTICE]
    with pytest.raises(Left):
        give_notice()


def test_a_notice_without_an_answer_waits_until_the_block_ends(heard: list[int]) -> None:
    block = notices_held()
    block.__enter__()
    give_notice()
    give_notice()
    assert heard == []
    with pytest.raises(Left):
        block.__exit__(None, None, None)
    assert heard == [NOTICE]


def test_a_handler_that_comes_back_is_called_once(heard: list[int]) -> None:
    signal.signal(NOTICE, lambda number, frame: heard.append(number))
    with notices_held() as notice:
        give_notice()
        notice.answer()
        assert not notice.given
    assert heard == [NOTICE]


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_where_nobody_hears_notices_nothing_changes(heard: list[int], handler: signal.Handlers) -> None:
    signal.signal(NOTICE, handler)
    with notices_held() as notice:
        assert signal.getsignal(NOTICE) == handler
        notice.answer()
    assert signal.getsignal(NOTICE) == handler


def test_another_thread_holds_nothing(heard: list[int]) -> None:
    before, inside = signal.getsignal(NOTICE), []

    def work() -> None:
        with notices_held() as notice:
            notice.answer()
            inside.append(signal.getsignal(NOTICE))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
