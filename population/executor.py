"""Runs independent tasks in this process and in worker processes beside it."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

_C = TypeVar("_C")
_shared: Any = None


def run_tasks(
    task: Callable[[_C, int], None], shared: _C, indices: Sequence[int], *, workers: int
) -> Iterator[int]:
    """Runs a task for every index; results go to the store, not through here.

    Args:
        task: a function of a module's top level, called as ``task(shared, index)``.
        shared: sent to each further process once; pickled if there is any.
        indices: what to run, each once, in no order.
        workers: number of processes, this one among them.

    Yields:
        Each index when it is done.

    Raises:
        Exception: the first one that a task raises; tasks that have not started are dropped.
    """
    helpers = min(workers, len(indices)) - 1
    if helpers < 1:
        for index in indices:
            task(shared, index)
            yield index
        return
    waiting, finished = deque(indices), SimpleQueue[tuple[int, Future[None]]]()
    handing = threading.Lock()
    # Not forked: a forked child of a process that runs threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(helpers, context, initializer=_receive, initargs=(shared,)) as pool:

        def take() -> int | None:
            with suppress(IndexError):  # the other side may have taken the last one
                return waiting.popleft()
            return None

        def hand_on(*_: object) -> None:
            """Gives a helper that has nothing to do the next task."""
            with handing:  # nothing may be submitted once the pool is shut down
                index = take()
                future = None if index is None else pool.submit(_run, task, index)
            if index is not None and future is not None:
                future.add_done_callback(lambda done: finished.put((index, done)))
                future.add_done_callback(hand_on)

        try:
            for _ in range(helpers):
                hand_on()
            left = len(indices)
            while left:
                # This process works too, rather than hold its memory for nothing.
                own = take()
                if own is not None:
                    task(shared, own)
                    left -= 1
                    yield own
                while left and not (waiting and finished.empty()):
                    done, future = finished.get()
                    future.result()
                    left -= 1
                    yield done
        except BaseException:
            with handing:
                waiting.clear()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _receive(shared: Any) -> None:
    global _shared
    _shared = shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Callable[[Any, int], None], index: int) -> None:
    task(_shared, index)
