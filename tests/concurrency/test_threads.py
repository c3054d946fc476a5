"""What is produced in advance, in a thread for which nothing waits."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from dj_npy._concurrency import threads
from dj_npy._concurrency.threads import (
    CancelToken,
    Gate,
    Stopped,
    all_in_threads,
    cancellable,
    current_token,
    in_advance,
)
from tests.support import warm


def test_the_next_item_is_produced_while_one_is_used() -> None:
    produced = []

    def items() -> Iterator[int]:
        for n in range(4):
            produced.append(n)
            yield n

    for item in in_advance(items()):
        until = time.monotonic() + 10
        while len(produced) < min(item + 2, 4) and time.monotonic() < until:
            time.sleep(0.001)
        assert len(produced) == min(item + 2, 4)
    assert produced == [0, 1, 2, 3]
    assert list(in_advance([])) == []


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ZeroDivisionError

    ahead = in_advance(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_nothing_waits_for_an_item_that_nobody_wants() -> None:
    go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        go_on.wait(20)
        yield 2

    began = time.monotonic()
    ahead = in_advance(items())
    assert next(ahead) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10
    go_on.set()


def test_what_several_threads_do_for_a_call_ends_with_it() -> None:
    """They have no token of their own."""
    token, done = CancelToken(), list[int]()

    def work(number: int) -> bool:
        done.append(number)
        token.stopped = token.stopped or number == 20
        return True

    def call() -> None:
        current_token.set(token)
        with pytest.raises(Stopped):
            all_in_threads(work, cancellable(range(1000)), 4)

    copy_context().run(call)
    assert 20 <= max(done) < 40


def test_a_gate_lets_only_so_many_through() -> None:
    most, inside, found = [3], [0], []
    gate, lock = Gate(lambda: most[0]), threading.Lock()

    def call(_: int) -> None:
        with gate.entered(may_stop=True):
            with lock:
                inside[0] += 1
                found.append(inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(30)))
        assert max(found) == 3
        most[0] = 5
        list(pool.map(call, range(30)))
    assert max(found) == 5


@pytest.mark.parametrize("may_stop", [True, False])
def test_a_call_that_has_ended_does_not_wait_at_a_gate(may_stop: bool) -> None:
    gate, token, outcome = Gate(lambda: 1), CancelToken(), list[str]()
    token.stopped = True

    def call() -> None:
        current_token.set(token)
        try:
            with gate.entered(may_stop):
                outcome.append("entered")
        except Stopped:
            outcome.append("stopped")

    with gate.entered(may_stop=True):
        thread = threading.Thread(target=copy_context().run, args=(call,))
        thread.start()
        thread.join(0.3 if not may_stop else 60)
        assert outcome == (["stopped"] if may_stop else [])
    thread.join(60)
    assert outcome == ["stopped" if may_stop else "entered"]


def test_where_no_thread_can_be_started_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert list(in_advance(range(3))) == [0, 1, 2]
    assert threads.in_time(lambda: 7, 1) == 7


def test_it_goes_on_in_a_thread_that_outlives_the_main_one() -> None:
    program = """
import threading, time
from dj_npy._concurrency.threads import in_advance

def go_on():
    threading.main_thread().join()
    print(list(in_advance(range(3))), flush=True)

threading.Thread(target=go_on).start()
"""
    assert warm.output("-c", program) == "[0, 1, 2]"
