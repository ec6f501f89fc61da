"""Runs independent tasks in this process or in worker processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

_C = TypeVar("_C")
_shared: Any = None


def run_tasks(
    task: Callable[[_C, int], None], shared: _C, indices: Sequence[int], *, workers: int
) -> Iterator[int]:
    """Runs a task for every index; results go to the store, not through here.

    Args:
        task: a function of a module's top level, called as ``task(shared, index)``.
        shared: sent to each worker process once; pickled if there is more than one.
        indices: what to run, each once, in no order.
        workers: number of processes; with 1, everything runs in this process.

    Yields:
        Each index when it is done.

    Raises:
        Exception: the first one that a task raises; tasks that have not started are dropped.
    """
    processes = min(workers, len(indices))
    if processes <= 1:
        for index in indices:
            task(shared, index)
            yield index
        return
    # Not forked: a forked child of a process that runs threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_receive, initargs=(shared,)) as pool:
        futures = {pool.submit(_run, task, index): index for index in indices}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
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
