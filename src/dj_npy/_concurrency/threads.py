"""Threads: parallel calls, timeouts, cancellation, and a queue between two threads."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from itertools import chain, islice
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_QUEUED = 16
_QUEUED_PIECE = 256 << 10
"""Length of the queue, and bytes of each piece in it."""
_POLL_S = 0.1
"""Interval at which each side checks that the other is alive."""


class CancelToken:
    """Shared by the threads of one bulk call; `stopped` tells them to end."""

    stopped = False


class Stopped(BaseException):
    """Ends the work of a thread whose token was stopped."""


# Not an argument: between a task and the request or the loop that looks at the token are the cache,
# the file and every method of a store.
current_token: ContextVar[CancelToken | None] = ContextVar("current_token", default=None)
"""Token of the bulk call this thread works for; its other threads share the network."""


def raise_if_stopped() -> None:
    """In a thread with a token that is stopped, raise `Stopped`: no new request is begun."""
    token = current_token.get()
    if token is not None and token.stopped:
        raise Stopped


def cancellable(items: Iterable[T]) -> Iterable[T]:
    """Return `items`; in a thread with a token, iteration raises once that is stopped."""
    token = current_token.get()
    return items if token is None else _until_stopped(items, token)


def _until_stopped(items: Iterable[T], token: CancelToken) -> Iterator[T]:
    # Perhaps in another thread, which has no token of its own.
    for item in items:
        if token.stopped:
            raise Stopped
        yield item


class Gate:
    """
    Lets so many threads through at a time.

    Parameters
    ----------
    most : callable
        Returns how many; asked again whenever one has left.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._most, self._changed = most, threading.Condition()
        self._inside: set[int] = set()  # a thread that was interrupted on its way in counts once

    @contextmanager
    def entered(self, may_stop: bool) -> Iterator[None]:
        """Wait until there is room; with `may_stop`, not for a bulk call that has ended."""
        try:
            with self._changed:
                while len(self._inside) >= self._most():
                    if may_stop:
                        raise_if_stopped()
                    self._changed.wait(_POLL_S)
                self._inside.add(threading.get_ident())
            yield
        finally:
            with self._changed:
                self._inside.discard(threading.get_ident())
                self._changed.notify(2)  # there may be more room than before


def begun(call: Callable[[], T]) -> "Future[T]":
    """
    Begin `call` in a thread of its own, for which nothing ever waits.

    So use this only for calls whose late completion does no harm.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    except RuntimeError:  # no more threads: the interpreter is shutting down
        run()
    return future


def in_time(call: Callable[[], T], seconds: float) -> T:
    """Return the result of `call`, or raise TimeoutError after `seconds`; see `begun`."""
    future = begun(call)
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"the server has not answered within {seconds:g} s") from None


def each_in_time(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield `items`, none of them None; raise TimeoutError if one takes longer than `seconds`."""
    waiting = iter(items)
    while (item := in_time(lambda: next(waiting, None), seconds)) is not None:
        yield item


def in_advance(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, none of them None, while the next one is produced in a thread."""
    waiting = iter(items)
    item = next(waiting, None)
    while item is not None:
        following = begun(lambda: next(waiting, None))
        yield item
        item = following.result()


def side_by_side(
    work: Callable[[Any], T],
    items: Iterable[Any],
    max_workers: int,
    ahead: Callable[[], int] | None = None,
) -> Iterator[T]:
    """
    Yield ``work(item)`` in order, computed in `max_workers` threads; a single item needs none.

    `ahead` returns how many of them to use, and is asked again for each item. After an error
    nothing new is started, and running calls are awaited. A forked child that continues the
    iteration uses no threads.
    """
    waiting = iter(items)
    first_items = list(islice(waiting, 2))
    if len(first_items) < 2:
        yield from map(work, first_items)
        return
    waiting, process = chain(first_items, waiting), os.getpid()
    with ThreadPoolExecutor(max_workers) as pool:
        begun: deque[tuple[Any, Future[T]]] = deque()

        def begin() -> None:
            count = max_workers if ahead is None else min(ahead(), max_workers)
            for item in islice(waiting, max(0, count - len(begun))):
                try:
                    begun.append((item, pool.submit(work, item)))
                except RuntimeError:  # no more threads: the interpreter is shutting down
                    future: Future[T] = Future()
                    future.set_result(work(item))
                    begun.append((item, future))

        begin()
        while begun and os.getpid() == process:
            result = begun.popleft()[1].result()
            begin()
            yield result
        yield from map(work, chain((item for item, _ in begun), waiting))


def all_in_threads(work: Callable[[T], bool], items: Iterable[T], max_workers: int) -> bool:
    """
    Return whether ``work(item)`` is true for all items, computed in `max_workers` threads.

    The order is undefined: each thread takes the next item itself, which costs far less than
    submitting each. After a false result or an error nothing new is started, and running calls are
    awaited. A single item needs no thread.
    """
    waiting = iter(items)
    first_items = list(islice(waiting, max_workers))
    waiting, lock = chain(first_items, waiting), threading.Lock()
    if len(first_items) < 2:
        return all(map(work, waiting))
    failed = False

    def take_items() -> None:
        nonlocal failed
        while not failed:
            with lock:
                next_items = list(islice(waiting, 1))
            try:
                if not next_items:
                    return
                if not work(next_items[0]):
                    failed = True
            except BaseException:
                failed = True
                raise

    with ThreadPoolExecutor(len(first_items)) as pool:
        try:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(take_items) for _ in first_items)
            except RuntimeError:  # no more threads: the interpreter is shutting down
                take_items()
            for future in futures:
                future.result()
        except BaseException:  # an interrupt, too
            failed = True
            raise
    return not failed


class _Abandoned(Exception):  # noqa: N818
    """Ends an upload whose producer has failed."""


def pipe_to_thread(
    pieces: Iterable[memoryview],
    consume: Callable[[Iterator[memoryview]], None],
    undo: Callable[[], None],
) -> None:
    """
    Produce `pieces` in this thread and consume them in another one.

    The producer may read through obstore, which cannot be called from within its own callbacks. If
    either side fails, the other ends, and the consuming thread calls `undo`: so nothing is undone,
    and no name becomes free, while something is still being written, however often the producer
    is interrupted.
    """
    queue: Queue[memoryview | None] = Queue(_MAX_QUEUED)
    abandoned = threading.Event()
    failures: list[BaseException] = []

    def queued_pieces() -> Iterator[memoryview]:
        while not abandoned.is_set():
            with suppress(Empty):
                if (piece := queue.get(timeout=_POLL_S)) is None:
                    return
                yield piece
        raise _Abandoned

    def run_consumer() -> None:
        try:
            consume(queued_pieces())
            if abandoned.is_set():
                raise _Abandoned
        except BaseException as error:
            failures.append(error)
            undo()

    # A daemon: an interrupt that comes before it is told to end must not block the exit.
    consumer = threading.Thread(target=run_consumer, daemon=True)

    def put(piece: memoryview | None) -> None:
        while consumer.is_alive():
            with suppress(Full):
                queue.put(piece, timeout=_POLL_S)
                break

    try:
        consumer.start()
        for piece in pieces:
            # Small pieces: the queue is held in memory.
            for start in range(0, len(piece), _QUEUED_PIECE):
                put(piece[start : start + _QUEUED_PIECE])
            if not consumer.is_alive():
                break
        put(None)
        consumer.join()
    finally:
        abandoned.set()
        if consumer.ident is not None:
            consumer.join()
    if failures:
        raise failures[0]
