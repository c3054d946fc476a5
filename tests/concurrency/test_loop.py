"""Many calls on one event loop: their number, their bytes, their end."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest

from dj_npy._concurrency.loop import Room, all_on_loop
from dj_npy._concurrency.threads import CancelToken, Stopped, current_token
from tests.support.processes import fork_and


def everything(
    work: Any, items: Any, max_tasks: int = 8, max_nbytes: int = 100, room: Room | None = None
) -> bool:
    room = room or Room(lambda: max_tasks, max_nbytes)
    return all_on_loop(work, items, room, lambda item: 10)


class Counter:
    """Work that counts how much of it is in flight, and how much has ended."""

    def __init__(self, fails_at: int | None = None, error: type[Exception] | None = None) -> None:
        self.now = self.most = self.ended = 0
        self.fails_at, self.error = fails_at, error

    async def __call__(self, item: int) -> bool:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.002)
        finally:
            self.now -= 1
        self.ended += 1
        if item == self.fails_at and self.error is not None:
            raise self.error(item)
        return item != self.fails_at


def test_all_items_are_done() -> None:
    work = Counter()
    assert everything(work, range(100))
    assert work.ended == 100
    assert everything(work, [])


@pytest.mark.parametrize(("max_tasks", "max_nbytes", "most"), [(8, 1000, 8), (50, 45, 4)])
def test_only_so_many_and_so_many_bytes_are_in_flight(
    max_tasks: int, max_nbytes: int, most: int
) -> None:
    work = Counter()
    assert everything(work, range(100), max_tasks, max_nbytes)
    assert work.most == most


def test_an_item_that_is_too_large_goes_alone() -> None:
    work = Counter()
    assert everything(work, range(5), 8, max_nbytes=1)
    assert (work.ended, work.most) == (5, 1)


def test_calls_that_share_a_room_have_no_more_in_flight_together() -> None:
    work, room = Counter(), Room(lambda: 8, 1000)
    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(lambda _: everything(work, range(50), room=room), range(5)))
    assert (work.ended, work.most) == (250, 8)


def test_a_short_call_is_not_kept_waiting_by_a_long_one_of_the_same_room() -> None:
    long, short, room = Counter(), Counter(), Room(lambda: 4, 1000)
    thread = threading.Thread(target=everything, args=(long, range(500)), kwargs={"room": room})
    thread.start()
    while long.ended < 50:
        time.sleep(0.001)
    assert everything(short, range(4), room=room)
    assert long.ended < 400
    thread.join()
    assert long.ended == 500


def test_a_room_that_a_failed_call_has_left_is_empty() -> None:
    room = Room(lambda: 8, 1000)
    for error in (None, ValueError):
        with suppress(ValueError):
            assert not everything(Counter(10, error), range(1000), room=room)
    work = Counter()
    assert everything(work, range(100), room=room)
    assert work.most == 8


def test_the_end_of_a_bulk_call_cancels_what_is_in_flight() -> None:
    token, room, began = CancelToken(), Room(lambda: 8, 1000), threading.Event()

    async def never(item: int) -> bool:
        began.set()
        await asyncio.sleep(600)
        return True

    def call() -> None:
        current_token.set(token)
        with pytest.raises(Stopped):
            everything(never, range(20), room=room)

    thread = threading.Thread(target=copy_context().run, args=(call,))
    thread.start()
    assert began.wait(60)
    token.stopped = True
    thread.join(60)
    assert not thread.is_alive()
    assert everything(Counter(), range(20), room=room)  # nothing of it has stayed in the room


@pytest.mark.parametrize("error", [None, ValueError])
def test_after_a_failure_nothing_new_is_started_and_nothing_left_running(
    error: type[Exception] | None,
) -> None:
    work = Counter(10, error)
    if error is None:
        assert not everything(work, range(1000))
    else:
        with pytest.raises(error):
            everything(work, range(1000))
    assert work.ended < 40
    assert work.now == 0


def test_items_that_fail_to_be_made_end_it() -> None:
    work = Counter()

    def items() -> Iterator[int]:
        yield from range(20)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        everything(work, items())
    assert (work.now, work.ended) == (0, 20)


def test_an_interrupt_ends_what_is_in_flight() -> None:
    started, ended = threading.Event(), []

    async def work(item: int) -> bool:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(item)
        return True

    def interrupt() -> None:
        started.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        everything(work, range(100))
    assert time.monotonic() - begun < 30
    assert sorted(ended) == list(range(8))


def test_whenever_an_interrupt_comes_nothing_is_left_running() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for number in range(300):
            work = Counter()
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + number * 2e-5)
                everything(work, range(20))
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert work.now == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 50


def test_several_threads_share_it() -> None:
    works = [Counter() for _ in range(8)]
    threads = [threading.Thread(target=everything, args=(work, range(50))) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [work.ended for work in works] == [50] * 8
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("dj-npy requests") == 1


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    def all_done() -> bool:
        work = Counter()
        return everything(work, range(10)) and work.ended == 10

    assert all_done()
    assert fork_and(all_done) == 0
    assert all_done()
