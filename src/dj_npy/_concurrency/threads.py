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

_HANDED = 16
_HANDED_PIECE = 256 << 10
"""Pieces that wait to be consumed, and the bytes of one."""
_LOOK_S = 0.1
"""How often either side looks whether the other is still alive."""


class CancelToken:
    """The threads of one call that works on many arrays, and whether it wants no more of them."""

    stopped = False


class Stopped(BaseException):
    """Ends what a thread of a crowd is at that has been stopped."""


current_token: ContextVar[CancelToken | None] = ContextVar("in_crowd", default=None)
"""The crowd that this thread is of; its neighbours use the network, too."""


def cancellable(items: Iterable[T]) -> Iterable[T]:
    """Return `items`; but where this thread is of a crowd, they end when that is stopped."""
    crowd = current_token.get()
    return items if crowd is None else _watched(items, crowd)


def _watched(items: Iterable[T], crowd: CancelToken) -> Iterator[T]:
    for item in items:
        if crowd.stopped:
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


def side_by_side(work: Callable[[Any], T], items: Iterable[Any], at_once: int) -> Iterator[T]:
    """
    Yield ``work(item)`` in order, `at_once` of them in threads at a time; a single one in none.

    After an error nothing new is begun, and what is under way is waited for. A forked child
    that goes on with the iterator does so without threads.
    """
    waiting = iter(items)
    few = list(islice(waiting, 2))
    if len(few) < 2:
        yield from map(work, few)
        return
    waiting, process = chain(few, waiting), os.getpid()
    with ThreadPoolExecutor(at_once) as pool:

        def begin(count: int) -> Iterator[tuple[Any, Future[T]]]:
            for item in islice(waiting, count):
                try:
                    yield item, pool.submit(work, item)
                except RuntimeError:  # no more threads: the interpreter is shutting down
                    future: Future[T] = Future()
                    future.set_result(work(item))
                    yield item, future

        begun = deque(begin(at_once))
        while begun and os.getpid() == process:
            result = begun.popleft()[1].result()
            begun.extend(begin(1))
            yield result
        yield from map(work, chain((item for item, _ in begun), waiting))


def all_in_threads(work: Callable[[T], bool], items: Iterable[T], at_once: int) -> bool:
    """
    Return whether ``work(item)`` is true of all items, `at_once` of them in threads at a time.

    In no order; threads take the next item as they come, which costs far less than to be handed
    each. After one that is not true, or an error, nothing new is begun, and what is under way is
    waited for. A single item needs no thread.
    """
    waiting = iter(items)
    few = list(islice(waiting, at_once))
    waiting, taking = chain(few, waiting), threading.Lock()
    if len(few) < 2:
        return all(map(work, waiting))
    failed = False

    def take() -> None:
        nonlocal failed
        while not failed:
            with taking:
                some = list(islice(waiting, 1))
            try:
                if not some:
                    return
                if not work(some[0]):
                    failed = True
            except BaseException:
                failed = True
                raise

    with ThreadPoolExecutor(len(few)) as pool:
        try:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(take) for _ in few)
            except RuntimeError:  # no more threads: the interpreter is shutting down
                take()
            for future in futures:
                future.result()
        except BaseException:  # an interrupt, too
            failed = True
            raise
    return not failed


class _GivenUp(Exception):  # noqa: N818
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
    handed: Queue[memoryview | None] = Queue(_HANDED)
    given_up = threading.Event()
    failures: list[BaseException] = []

    def received() -> Iterator[memoryview]:
        while not given_up.is_set():
            with suppress(Empty):
                if (piece := handed.get(timeout=_LOOK_S)) is None:
                    return
                yield piece
        raise _GivenUp

    def consumed() -> None:
        try:
            consume(received())
            if given_up.is_set():
                raise _GivenUp
        except BaseException as error:
            failures.append(error)
            undo()

    # A daemon: if an interrupt comes before anybody can tell it to end, the program still can.
    consumer = threading.Thread(target=consumed, daemon=True)

    def hand(piece: memoryview | None) -> None:
        while consumer.is_alive():
            with suppress(Full):
                handed.put(piece, timeout=_LOOK_S)
                break

    try:
        consumer.start()
        for piece in pieces:
            # Small ones: what waits here is in memory.
            for start in range(0, len(piece), _HANDED_PIECE):
                hand(piece[start : start + _HANDED_PIECE])
            if not consumer.is_alive():
                break
        hand(None)
        consumer.join()
    finally:
        given_up.set()
        if consumer.ident is not None:
            consumer.join()
    if failures:
        raise failures[0]
