"""Prepare the next work items in threads while the caller uses the current one."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from dj_npy._concurrency.threads import CancelToken, current_token

T = TypeVar("T")

_MAX_WORK_ITEMS = 256
"""Most work items in flight, however small they are."""
_SLOW_S = 0.02
"""A wait longer than this is for I/O: a disk or a file server."""
_POLL_S = 0.5
"""Interval at which a wait wakes up where Ctrl-C does not interrupt it (Windows)."""
_CLOSE_S = 0.8
"""How long `close` waits for work in progress."""


class Task(Generic[T]):
    """
    A call whose result is used later.

    Parameters
    ----------
    work : callable
        Called without arguments.
    """

    __slots__ = ("_error", "_value", "_work", "done")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._error: BaseException | None = None
        self.done = False

    def run(self) -> None:
        """Call it and store its result or error."""
        assert self._work is not None
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error
        self._work = None
        self.done = True
        del self  # the error's traceback refers to this frame: avoid a reference cycle

    def result(self) -> T:
        """Return the call's result or raise its error, once; call it now if it has not run."""
        if not self.done:
            self.run()
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            # Its traceback leads to frames of the caller, which may hold this task, and so itself.
            del error, self


class WorkItem:
    """
    An item of a sequence, with the tasks to run for it.

    Parameters
    ----------
    item
        Any object; passed through.
    tasks : sequence of Task
        Run by threads, in any order, before the work item is returned.
    nbytes : int
        Memory it takes from its start until it is returned.
    threads : int, optional
        Number of useful threads for CPU-bound tasks, which need no network and probably no disk.
        A caller that waits for such tasks runs some itself. If they turn out to be slow, and for
        all other tasks, all threads are used.
    workers : callable, optional
        Returns how many threads are useful for all tasks; that may change with their answers.
    barrier : bool
        Draw no further work item until the next one is requested: this one might change.
    """

    __slots__ = ("barrier", "item", "nbytes", "tasks", "threads", "workers")

    def __init__(
        self,
        item: Any,
        tasks: Sequence[Task[Any]] = (),
        nbytes: int = 0,
        *,
        threads: int | None = None,
        workers: Callable[[], int] | None = None,
        barrier: bool = False,
    ) -> None:
        self.item, self.tasks, self.nbytes = item, tasks, nbytes
        self.threads, self.workers, self.barrier = threads, workers, barrier

    @property
    def ready(self) -> bool:
        """Whether all its tasks are done."""
        return all(task.done for task in self.tasks)


IN_FLIGHT = 256 << 20
"""Bytes of files that are written or checked at the same time; a larger one goes alone."""


class Pipeline(Iterator[WorkItem]):
    """
    Iterate over work items in order, running the tasks of the next ones in threads.

    Work items are drawn from `work_items` in the caller's thread only. Those in flight take at
    most `max_nbytes` bytes, or are a single one. If drawing one raises, the error is raised in
    its place in the sequence. A forked child continues without threads.

    Parameters
    ----------
    work_items : iterable of WorkItem
        In the order in which they are returned.
    max_workers : int
        Most threads.
    max_nbytes : int
        Bytes in flight.
    patient : bool
        Whether the caller needs all results and no early one: it is then woken less often.
    adapt : bool
        Whether `WorkItem.workers` limits the threads.
    """

    def __init__(
        self,
        work_items: Iterable[WorkItem],
        max_workers: int,
        max_nbytes: float,
        *,
        patient: bool = False,
        adapt: bool = False,
    ) -> None:
        self._work_items, self._max_workers, self._max_nbytes = (
            iter(work_items),
            max_workers,
            max_nbytes,
        )
        self._patient, self._adapt = patient, adapt
        self._begun: deque[WorkItem] = deque()
        self._nbytes = 0
        self._next_item: WorkItem | None = None  # drawn, but did not fit yet
        self._ended = False
        self._failure: Exception | None = None
        self._slow = False
        self._waiting: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._finished: SimpleQueue[None] = SimpleQueue()
        self._awaited: list[Task[Any] | None] = [None]
        self._token = CancelToken()
        self._threads: list[threading.Thread] = []
        self._process = os.getpid()

    def __next__(self) -> WorkItem:
        while not self._token.stopped:
            begun = self._begun  # another thread may close this and replace the deque
            if begun and self._ready(begun[0]):
                work_item = begun.popleft()
                self._nbytes -= work_item.nbytes
                if not work_item.barrier and self._begin():  # two for one, until the budget is used
                    self._begin()
                return work_item
            if self._begin():
                continue
            if not begun:
                break
            self._wait(begun)
        self.close()
        failure, self._failure = self._failure, None
        raise StopIteration if failure is None else failure

    def close(self, wait: bool = True) -> None:
        """
        Start nothing new, and wait up to a second for work in progress.

        A request that takes longer continues in its thread, which then ends. Thread-safe.
        """
        self._token.stopped, self._ended = True, True
        self._begun, self._next_item = deque(), None
        threads, self._threads = self._threads, []
        self._waiting.put(None)
        if wait and os.getpid() == self._process:
            deadline = time.monotonic() + _CLOSE_S
            for thread in threads:
                with suppress(RuntimeError):  # an interrupt came before it started
                    thread.join(max(0.0, deadline - time.monotonic()))

    def __del__(self) -> None:
        # Do not join: the garbage collector may call this anywhere.
        if hasattr(self, "_process"):
            self.close(wait=False)

    def _ready(self, work_item: WorkItem) -> bool:
        # A forked child has none of the threads, so it runs the tasks itself.
        return work_item.ready or os.getpid() != self._process

    def _begin(self) -> bool:
        """Draw a work item and start it; False if there is none or it does not fit."""
        work_item = self._next_item
        if work_item is None:
            is_full = len(self._begun) >= _MAX_WORK_ITEMS or (
                self._begun and self._begun[-1].barrier
            )
            if self._ended or is_full:
                return False
            try:
                work_item = self._next_item = next(self._work_items, None)
            except Exception as error:
                self._failure = error
            if work_item is None:
                self._ended = True
                return False
        if self._begun and self._nbytes + work_item.nbytes > self._max_nbytes:
            return False
        self._next_item = None
        self._begun.append(work_item)
        self._nbytes += work_item.nbytes
        if os.getpid() == self._process:
            max_threads = self._useful_threads(work_item)
            for task in work_item.tasks:
                if len(self._threads) < max_threads:
                    self._start_thread()
                if max_threads and not self._threads:  # none to be had
                    task.run()
                else:
                    self._waiting.put(task)
        return True

    def _useful_threads(self, work_item: WorkItem) -> int:
        count = self._max_workers
        if self._adapt and work_item.workers is not None:
            count = min(work_item.workers(), count)
        if work_item.threads is not None and not self._slow:
            count = min(work_item.threads, count)
        return count

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=_work,
            args=(self._waiting, self._awaited, self._finished, self._token),
            name="dj-npy",
            daemon=True,  # after Ctrl-C, do not wait for a server that does not answer
        )
        self._threads.append(thread)  # before starting it: an interrupt may come right after
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is shutting down
            self._threads.remove(thread)

    def _wait(self, begun: deque[WorkItem]) -> None:
        start = time.monotonic()
        if not (begun[0].threads is not None and self._run_one()):
            # Half of what is begun is left to the threads until the caller has begun more.
            count = min(len(self._threads), len(begun) // 2) if self._patient else 0
            wanted = begun[max(count - 1, 0)]
            for task in (*wanted.tasks, *begun[0].tasks):
                # Announce it first, check second; a thread does the reverse, so no wake-up is lost.
                self._awaited[0] = task
                if not task.done:
                    with suppress(Empty):
                        self._finished.get(timeout=_POLL_S)
                    break
        self._slow = self._slow or time.monotonic() - start > _SLOW_S
        useful = self._useful_threads(begun[0]) - len(self._threads)
        for _ in range(min(useful, self._waiting.qsize())):
            self._start_thread()

    def _run_one(self) -> bool:
        """Run a queued task instead of waiting; False if there is none."""
        with suppress(Empty):
            task = self._waiting.get_nowait()
            if task is not None:
                task.run()
                return True
            self._waiting.put(None)
        return False


def _work(
    waiting: "SimpleQueue[Task[Any] | None]",
    awaited: list[Task[Any] | None],
    finished: "SimpleQueue[None]",
    token: CancelToken,
) -> None:
    current_token.set(token)
    while (task := waiting.get()) is not None:
        if not token.stopped:
            task.run()
        if awaited[0] is task:
            finished.put(None)
        del task  # do not keep a result alive while waiting
    awaited[0] = None  # nor through this frame, to which an error's traceback refers
    waiting.put(None)  # passes the end marker to the next thread
