"""Work in the background: one job at a time, and few results."""

import threading
import time
from collections.abc import Callable

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
