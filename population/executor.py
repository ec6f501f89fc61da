"""Runs independent tasks in this process and in worker processes beside it."""

import multiprocessing
import os
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from population.errors import InputError
from population.signals import stops_held

_C = TypeVar("_C")


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
        Exception: the first one that a task raises. Further processes are killed then, whatever they are
            at, as they are when this one is interrupted or killed.
        InputError: if a further process was killed by something else.
    """
    helpers = min(workers, len(indices)) - 1
    if helpers < 1:
        for index in indices:
            task(shared, index)
            yield index
        return
    waiting, finished = deque(indices), SimpleQueue[int | Exception]()
    content = pickle.dumps(shared)
    # Not forked: a forked child of a process that runs threads can hang.
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # its start would let through the signals that are held below
    processes = []
    try:
        for _ in range(helpers):
            line, far_end = context.Pipe()
            with stops_held():  # only this process may stop the others
                process = context.Process(target=_work, args=(task, far_end))
                process.start()
                processes.append(process)
            far_end.close()
            first = waiting.popleft()  # taken here, as this process may be through before the other is up
            threading.Thread(
                target=_direct, args=(line, content, first, waiting, finished), daemon=True
            ).start()
        left = len(indices)
        while left:
            # This process works too, rather than hold its memory for nothing.
            own = _take(waiting)
            if own is not None:
                task(shared, own)
                left -= 1
                yield own
            while left and not (waiting and finished.empty()):
                done = finished.get()
                if isinstance(done, Exception):
                    raise done
                left -= 1
                yield done
    finally:
        for process in processes:
            process.kill()
            process.join()


def _take(waiting: deque[int]) -> int | None:
    with suppress(IndexError):  # another thread may have taken the last one
        return waiting.popleft()
    return None


def _direct(
    line: Connection,
    content: bytes,
    first: int,
    waiting: deque[int],
    finished: SimpleQueue[int | Exception],
) -> None:
    """Gives one further process a task after the other, in a thread of its own.

    The process is sent what is shared only here: data that a process gets at its start block the starting
    thread for ever if the process is killed before it has read them.
    """
    with line:
        try:
            line.send_bytes(content)
            index: int | None = first
            while index is not None:
                line.send(index)
                failure = line.recv()
                finished.put(index if failure is None else failure)
                index = _take(waiting)
        except (EOFError, OSError):
            finished.put(
                InputError(
                    "a worker process was killed, perhaps for lack of memory; the same command goes on from"
                    " here, and fewer --workers need less memory"
                )
            )


def _work(task: Callable[[Any, int], None], line: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # the parent was killed
        shared = pickle.loads(line.recv_bytes())  # noqa: S301 - from the parent
        while True:
            line.send(_outcome(task, shared, line.recv()))


def _outcome(task: Callable[[Any, int], None], shared: Any, index: int) -> Exception | None:
    try:
        task(shared, index)
    except Exception as error:
        failure = error if _can_be_sent(error) else RuntimeError(f"{type(error).__name__}: {error}")
        failure.add_note(traceback.format_exc())  # a traceback is lost on the way to the parent
        return failure
    return None


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    except Exception:  # whatever its class does not foresee
        return False
    return True


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
