"""An event loop in a thread of its own, for requests of which hundreds are in flight."""

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.5
"""Interval at which a wait looks whether it has missed the end."""
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


def all_on_loop(
    work: Callable[[T], Awaitable[bool]],
    items: Iterable[T],
    *,
    max_tasks: Callable[[], int],
    nbytes_of: Callable[[T], int],
    max_nbytes: int,
) -> bool:
    """
    Return whether ``await work(item)`` is true for all items, many of them in flight.

    As `threads.all_in_threads`: the order is undefined, nothing new is started after a false result
    or an error, and when this returns, nothing runs any more. The loop's thread takes the items,
    and is shared by all calls: neither `items` nor `work` may block.

    Parameters
    ----------
    max_tasks : callable
        Returns how many items may be in flight; asked again for each.
    max_nbytes : int
        Most bytes in flight; a single item may have more.
    """
    failed, nbytes = False, 0
    tasks: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []
    room: asyncio.Future[None] | None = None
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
        nonlocal nbytes
        nbytes -= size
        tasks.discard(task)
        if room is not None and not room.done():
            room.set_result(None)

    async def run() -> None:
        nonlocal failed, nbytes, room
        try:
            for item in items:
                size = nbytes_of(item)
                while tasks and (len(tasks) >= max_tasks() or nbytes + size > max_nbytes):
                    room = loop.create_future()
                    await room
                if failed:
                    break
                nbytes += size
                task = loop.create_task(one(item))
                task.add_done_callback(partial(end, size=size))
                tasks.add(task)
        except BaseException as error:
            failed = True
            errors.append(error)
        while tasks:
            room = loop.create_future()
            await room
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

    def wait() -> None:
        # A lock, and not a `Future`: an interrupt in its Python code would leave it locked.
        while not is_ended:
            ended.acquire(timeout=_POLL_S)

    loop = _own.get()
    try:
        loop.call_soon_threadsafe(begin)
        wait()
    except BaseException:  # an interrupt
        loop.call_soon_threadsafe(cancel)
        wait()
        raise
    if errors:
        raise errors[0]
    return not failed
