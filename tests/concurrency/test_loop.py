"""Many calls on one event loop: their number, their bytes, their end."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from dj_npy._concurrency.loop import all_on_loop
from tests.support.processes import fork_and


def everything(work: object, items: object, max_tasks: int = 8, max_nbytes: int = 100) -> bool:
    return all_on_loop(
        work,  # type: ignore[arg-type]
        items,  # type: ignore[arg-type]
        max_tasks=lambda: max_tasks,
        nbytes_of=lambda item: 10,
        max_nbytes=max_nbytes,
    )


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
        started.wait(10)
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
