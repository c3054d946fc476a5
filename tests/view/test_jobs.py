"""Work in the background: one job at a time, few results, and others go first."""

import threading
import time
from collections.abc import Callable

import pytest

from dj_npy._view import jobs as jobs_module
from dj_npy._view.jobs import Job, Jobs
from tests.view.conftest import until


def test_one_job_runs_at_a_time_and_of_many_the_oldest_end() -> None:
    jobs, begun, release = Jobs(), [], threading.Event()

    def work(number: int) -> Callable[[Job], int]:
        def do(job: Job) -> int:
            begun.append(number)
            release.wait(30)
            job.progress(0.5)
            return number

        return do

    some = [jobs.start((n,), work(n)) for n in range(jobs_module._KEPT)]
    until(lambda: begun)
    assert jobs.start((0,), work(0)) is some[0]  # it runs
    late = [jobs.start((n,), work(n)) for n in range(10, 12)]
    time.sleep(0.1)
    assert len(begun) == 1
    release.set()
    until(lambda: [each.state for each in late] == ["complete"] * 2)
    known = [n for n in (*range(jobs_module._KEPT), 10, 11) if jobs.ask((n,))]
    assert len(known) == jobs_module._KEPT
    assert {10, 11} <= {*known}
    assert jobs.start((11,), work(11)).result == 11
    assert begun.count(11) == 1


def test_a_job_waits_while_a_page_waits() -> None:
    jobs, steps = Jobs(), []

    def work(job: Job) -> str:
        for number in range(3):
            job.progress(number / 3)
            steps.append(number)
        return "done"

    with jobs.aside():
        with jobs.aside():
            job = jobs.start(("array",), work)
        time.sleep(0.3)
        assert steps == []
    until(lambda: job.state == "complete")
    assert (steps, job.result) == ([0, 1, 2], "done")


def test_a_page_that_waits_for_long_does_not_stop_a_job() -> None:
    jobs = Jobs()
    with jobs.aside():
        job = jobs.start(("array",), lambda _: "done")
        until(lambda: job.state == "complete")


def test_what_nobody_looks_at_gives_its_turn_to_what_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs_module, "_WHILE_OTHERS_WAIT_S", 0.2)
    jobs, ended = Jobs(), threading.Event()

    def endless(job: Job) -> None:
        try:
            while True:
                job.progress(0.5)
                time.sleep(0.01)
        finally:
            ended.set()

    left = jobs.start(("left",), endless)
    time.sleep(0.5)
    assert left.state == "running"  # as long as nothing else is asked for
    now = jobs.start(("now",), lambda _: "done")
    until(lambda: now.state == "complete")
    assert ended.is_set()
    assert jobs.ask(("left",)) is None
