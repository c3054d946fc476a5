"""Work in other threads: read side by side, and hand pieces on."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from itertools import chain, islice
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_QUEUED = 16
_QUEUED_PIECE = 256 << 10
"""Pieces that wait to be consumed, and the bytes of one."""
_POLL_S = 0.1
"""How often either side looks whether the other is still alive."""


class CancelToken:
    """The threads of one call that works on many arrays, and whether it wants no more of them."""

    stopped = False


class Stopped(BaseException):
    """Ends what a thread of a crowd is at that has been stopped."""


current_token: ContextVar[CancelToken | None] = ContextVar("current_token", default=None)
"""The crowd that this thread is of; its neighbours use the network, too."""


def cancellable(items: Iterable[T]) -> Iterable[T]:
    """Return `items`; but where this thread is of a crowd, they end when that is stopped."""
    token = current_token.get()
    return items if token is None else _until_cancelled(items, token)


def _until_cancelled(items: Iterable[T], token: CancelToken) -> Iterator[T]:
    for item in items:
        if token.stopped:
            raise Stopped
        yield item


def in_time(call: Callable[[], T], seconds: float) -> T:
    """
    Return what `call` returns, or raise TimeoutError where that takes longer.

    It then goes on in a thread of its own: for what would wait for ever, and changes nothing late.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads: the interpreter is shutting down
        return call()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"the server has not answered within {seconds:g} s") from None


def each_in_time(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield `items`, none of which is None, or raise TimeoutError where one takes longer."""
    waiting = iter(items)
    while (item := in_time(lambda: next(waiting, None), seconds)) is not None:
        yield item


def side_by_side(work: Callable[[Any], T], items: Iterable[Any], max_workers: int) -> Iterator[T]:
    """
    Yield ``work(item)`` in order, `max_workers` of them in threads at a time; a single one in none.

    After an error nothing new is begun, and what is under way is waited for. A forked child
    that goes on with the iterator does so without threads.
    """
    waiting = iter(items)
    first_items = list(islice(waiting, 2))
    if len(first_items) < 2:
        yield from map(work, first_items)
        return
    waiting, process = chain(first_items, waiting), os.getpid()
    with ThreadPoolExecutor(max_workers) as pool:

        def begin(count: int) -> Iterator[tuple[Any, Future[T]]]:
            for item in islice(waiting, count):
                try:
                    yield item, pool.submit(work, item)
                except RuntimeError:  # no more threads: the interpreter is shutting down
                    future: Future[T] = Future()
                    future.set_result(work(item))
                    yield item, future

        begun = deque(begin(max_workers))
        while begun and os.getpid() == process:
            result = begun.popleft()[1].result()
            begun.extend(begin(1))
            yield result
        yield from map(work, chain((item for item, _ in begun), waiting))


def all_in_threads(work: Callable[[T], bool], items: Iterable[T], max_workers: int) -> bool:
    """
    Return whether ``work(item)`` is true of all items, `max_workers` of them in threads at a time.

    In no order; threads take the next item as they come, which costs far less than to be handed
    each. After one that is not true, or an error, nothing new is begun, and what is under way is
    waited for. A single item needs no thread.
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
    """Ends an upload whose maker of pieces has failed."""


def pipe_to_thread(
    pieces: Iterable[memoryview],
    consume: Callable[[Iterator[memoryview]], None],
    undo: Callable[[], None],
) -> None:
    """
    Have `pieces` consumed in another thread, while they are made in this one.

    What makes them may itself read through obstore, which cannot be called from within a
    call of it. If either side fails, the other ends, and the consuming thread undoes: so
    nothing is undone, and no name is free again, while anything is still being written,
    however often the maker is interrupted.
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

    # A daemon: if an interrupt comes before anybody can tell it to end, the program still can.
    consumer = threading.Thread(target=run_consumer, daemon=True)

    def put(piece: memoryview | None) -> None:
        while consumer.is_alive():
            with suppress(Full):
                queue.put(piece, timeout=_POLL_S)
                break

    try:
        consumer.start()
        for piece in pieces:
            # Small ones: what waits here is in memory.
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
