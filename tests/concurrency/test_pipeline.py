"""Work items in order, prepared by threads."""

import threading
import time

import pytest

from dj_npy._concurrency import pipeline as pipeline_module
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem


def test_a_patient_pipeline_is_refilled_before_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third and the fourth item end only after the fifth has begun; four fit at a time."""
    monkeypatch.setattr(pipeline_module, "_POLL_S", 60)
    fifth = threading.Event()

    def work(number: int) -> bool:
        time.sleep(0.1)  # until it is waited for
        if number == 4:
            fifth.set()
        return fifth.wait(20) if number in (2, 3) else True

    items = (WorkItem(n, [Task(lambda n=n: work(n))], 1) for n in range(8))  # type: ignore[misc]
    pipeline = Pipeline(items, 64, 4, patient=True)
    assert all(item.tasks[0].result() for item in pipeline)
    assert fifth.is_set()


def test_threads_follow_what_is_useful_unless_told() -> None:
    for adapt, expected in ((True, 2), (False, 5)):
        names: set[int] = set()
        together = threading.Barrier(expected)

        def work(names: set[int] = names, together: threading.Barrier = together) -> None:
            names.add(threading.get_ident())
            together.wait(20)

        items = (WorkItem(n, [Task(work)], workers=lambda: 2) for n in range(10))
        for item in Pipeline(items, 5, 100, adapt=adapt):
            item.tasks[0].result()
        assert len(names) == expected
