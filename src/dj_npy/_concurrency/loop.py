"""An event loop in a thread of its own, for requests of which hundreds are in flight."""

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from dj_npy._concurrency.threads import raise_if_stopped

T = TypeVar("T")

_POLL_S = 0.25
"""Interval at which a wait looks whether it has missed the end, or is to end."""
_END_S = 1
"""How long the exit of the interpreter waits for the thread."""


class _Loop:
    """The loop of this process, begun on first use. A forked child begins its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                name = "dj-npy requests"
                thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
            return self._loop

    def end(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_END_S)
            if not self._thread.is_alive():
                self._loop.close()


_own = _Loop()
atexit.register(lambda: _own.end())


def _begin_anew() -> None:
    """In a forked child: the thread is not there, nor is the loop its own."""
    global _own, _parents
    _parents, _own = _own, _Loop()


_parents: _Loop | None = None
"""Kept, as closing it would disturb the parent's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class Room:
    """
    What all calls to one store have in flight together, in the order in which they came.

    Only the loop's thread uses it. In a forked child, whose loop is another, it is empty.

    Parameters
    ----------
    max_tasks : callable
        Returns how many items may be in flight; asked again for each.
    max_nbytes : int
        Most bytes in flight; a single item may have more.
    """

    def __init__(self, max_tasks: Callable[[], int], max_nbytes: int) -> None:
        self._max_tasks, self._max_nbytes = max_tasks, max_nbytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = self._nbytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def enter(self, nbytes: int) -> None:
        """Wait until there is room for an item."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._tasks, self._nbytes, self._waiting = loop, 0, 0, deque()
        turn = loop.create_future()
        self._waiting.append((turn, nbytes))
        self._admit()
        await turn

    def leave(self, nbytes: int) -> None:
        """Make room for others."""
        self._tasks, self._nbytes = self._tasks - 1, self._nbytes - nbytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            turn, nbytes = self._waiting[0]
            is_full = self._tasks >= self._max_tasks() or self._nbytes + nbytes > self._max_nbytes
            if self._tasks and is_full:
                return
            self._waiting.popleft()
            self._tasks, self._nbytes = self._tasks + 1, self._nbytes + nbytes
            turn.set_result(None)


def all_on_loop(
    work: Callable[[T], Awaitable[bool]],
    items: Iterable[T],
    room: Room,
    nbytes_of: Callable[[T], int],
) -> bool:
    """
    Return whether ``await work(item)`` is true for all items, many of them in flight.

    As `threads.all_in_threads`: the order is undefined, nothing new is started after a false result
    or an error, and when this returns, nothing runs any more. The loop's thread takes the items,
    and is shared by all calls: neither `items` nor `work` may block. An interrupt, or the end of
    the bulk call this thread works for, cancels what is in flight.
    """
    failed = False
    tasks: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []
    main: asyncio.Task[None] | None = None
    is_ended, ended = False, threading.Lock()
    ended.acquire()

    async def one(item: T) -> None:
        nonlocal failed
        try:
            if not await work(item):
                failed = True
        except BaseException as error:
            failed = True
            errors.append(error)

    def end(task: asyncio.Task[None], size: int) -> None:
        # Not in `one`, which is not entered if it is cancelled before.
        tasks.discard(task)
        room.leave(size)

    async def run() -> None:
        nonlocal failed
        try:
            for item in items:
                size = nbytes_of(item)
                await room.enter(size)
                if failed:
                    room.leave(size)
                    break
                task = loop.create_task(one(item))
                task.add_done_callback(partial(end, size=size))
                tasks.add(task)
        except BaseException as error:
            failed = True
            errors.append(error)
        while tasks:
            await asyncio.wait(tasks)
        finish()

    def finish() -> None:
        nonlocal is_ended
        is_ended = True
        ended.release()

    def begin() -> None:
        nonlocal main
        main = loop.create_task(run())

    def cancel() -> None:
        nonlocal failed
        failed = True
        for task in tasks:
            task.cancel()
        if main is None:  # it never began
            finish()

    loop = _own.get()
    try:
        loop.call_soon_threadsafe(begin)
        # A lock, and not a `Future`: an interrupt in its Python code would leave it locked.
        while not is_ended:
            ended.acquire(timeout=_POLL_S)
            raise_if_stopped()
    except BaseException:
        loop.call_soon_threadsafe(cancel)
        while not is_ended:
            ended.acquire(timeout=_POLL_S)
        raise
    if errors:
        raise errors[0]
    return not failed
