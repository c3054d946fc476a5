"""Work on what comes next, in other threads, while the caller is busy with what came before."""

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
"""How far ahead at most, however little each step takes."""
_SLOW_S = 0.02
"""What takes longer than this does wait: for a disk, or a file server."""
_POLL_S = 0.5
"""How often a wait is interrupted where Ctrl-C does not do that (Windows)."""
_CLOSE_S = 0.8
"""How long work that is under way is waited for when nobody wants it any more."""


class Task(Generic[T]):
    """
    A call whose result is looked at later.

    Parameters
    ----------
    work : callable
        What is to be called, without arguments.
    """

    __slots__ = ("_error", "_value", "_work", "done")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._error: BaseException | None = None
        self.done = False

    def run(self) -> None:
        """Call it and keep what comes of it."""
        assert self._work is not None
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error
        self._work = None
        self.done = True
        del self  # the error's traceback leads to this call, which would hold what holds the error

    def result(self) -> T:
        """Return what the call returned, or raise what it raised; call it now if nobody has."""
        if not self.done:
            self.run()
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # the error's traceback would hold what holds the error


class WorkItem:
    """
    One item of a sequence, and what is to be done for it.

    Parameters
    ----------
    item
        Whatever it is; passed on.
    tasks : sequence of Task
        Done by threads, in any order, before the step is handed out.
    nbytes : int
        Memory that it takes from when it is begun until it is handed out.
    threads : int, optional
        How many threads are worth their while: for tasks that want a processor, and neither a
        network nor, most likely, a disk. Whoever waits for such tasks does them, too. If they
        turn out to take long, and for other tasks, it is as many as there may be.
    alone : bool
        Draw no other step until the next one is asked for: this one might change.
    """

    __slots__ = ("barrier", "item", "nbytes", "tasks", "threads")

    def __init__(
        self,
        item: Any,
        tasks: Sequence[Task[Any]] = (),
        nbytes: int = 0,
        *,
        threads: int | None = None,
        barrier: bool = False,
    ) -> None:
        self.item, self.tasks, self.nbytes = item, tasks, nbytes
        self.threads, self.barrier = threads, barrier

    @property
    def ready(self) -> bool:
        """Whether it can be handed out."""
        return all(task.done for task in self.tasks)


class Pipeline(Iterator[WorkItem]):
    """
    Hand out steps in order, those that come next being worked on meanwhile.

    The steps are drawn from `work_items` by whoever asks for the next one, never in a thread. What
    is begun and not handed out stays within `max_nbytes` bytes, or is a single step. If drawing one
    raises, that is raised where the step would have come. A forked child that goes on with it
    does so without threads.

    Parameters
    ----------
    steps : iterable of Step
        What is to be done.
    at_once : int
        Threads.
    most : int
        Bytes.
    patient : bool
        Whether who asks is only interested in all of them: it is then woken less often.
    """

    def __init__(
        self,
        work_items: Iterable[WorkItem],
        max_workers: int,
        max_nbytes: float,
        *,
        patient: bool = False,
    ) -> None:
        self._work_items, self._max_workers, self._max_nbytes = (
            iter(work_items),
            max_workers,
            max_nbytes,
        )
        self._wait_for_count = max_workers if patient else 1
        self._begun: deque[WorkItem] = deque()
        self._nbytes = 0
        self._next_item: WorkItem | None = None  # for which there was no room
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
            begun = self._begun  # another thread may close this, and empty it
            if begun and self._ready(begun[0]):
                work_item = begun.popleft()
                self._nbytes -= work_item.nbytes
                if (
                    not work_item.barrier and self._begin()
                ):  # two for one, until there is no more room
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
        Begin nothing new, and wait, a second at most, for what is under way.

        A request that takes longer goes on in its thread, which then ends. Any thread may call
        this.
        """
        self._token.stopped, self._ended = True, True
        self._begun, self._next_item = deque(), None
        threads, self._threads = self._threads, []
        self._waiting.put(None)
        if wait and os.getpid() == self._process:
            deadline = time.monotonic() + _CLOSE_S
            for thread in threads:
                with suppress(RuntimeError):  # an interrupt came before it could start
                    thread.join(max(0.0, deadline - time.monotonic()))

    def __del__(self) -> None:
        # No joining: this may be the collector's doing, anywhere.
        if hasattr(self, "_process"):
            self.close(wait=False)

    def _ready(self, work_item: WorkItem) -> bool:
        # In a forked child, whatever the threads were at, they are not here.
        return work_item.ready or os.getpid() != self._process

    def _begin(self) -> bool:
        """Draw a step and begin it; False if there is none, or no room for it."""
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
            max_threads = self._max_workers
            if work_item.threads is not None and not self._slow:
                max_threads = min(work_item.threads, max_threads)
            for task in work_item.tasks:
                self._submit(task, max_threads)
        return True

    def _submit(self, task: Task[Any], max_threads: int) -> None:
        if len(self._threads) < max_threads:
            thread = threading.Thread(
                target=_work,
                args=(self._waiting, self._awaited, self._finished, self._token),
                name="dj-npy",
                daemon=True,  # after Ctrl-C, the program need not wait for a silent server
            )
            self._threads.append(thread)  # first, as an interrupt may come once it has started
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                self._threads.remove(thread)
                if not self._threads:
                    task.run()
                    return
        self._waiting.put(task)

    def _wait(self, begun: deque[WorkItem]) -> None:
        start = time.monotonic()
        if not (begun[0].threads is not None and self._run_one()):
            wanted = begun[min(self._wait_for_count, len(begun)) - 1]
            for task in (*wanted.tasks, *begun[0].tasks):
                # Said first, looked at second; a thread does it the other way round.
                self._awaited[0] = task
                if not task.done:
                    with suppress(Empty):
                        self._finished.get(timeout=_POLL_S)
                    break
        self._slow = self._slow or time.monotonic() - start > _SLOW_S

    def _run_one(self) -> bool:
        """Do a task instead of waiting for it."""
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
        del task  # while this thread waits, nobody's result is held
    awaited[0] = None  # nor by this thread's frame, which an error's traceback leads to
    waiting.put(None)  # for the next one
