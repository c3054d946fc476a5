"""Work in the background: one job at a time, while somebody asks how far it is."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

from dj_npy._concurrency.threads import CancelToken, Stopped, begun, current_token, side_by_side
from dj_npy._format.npyfile import AnyArray
from dj_npy._selection.parts import contiguous_shape
from dj_npy._view.arrays import Shown

_BLOCK = 16 << 20
"""Bytes that are read at a time; two such reads are under way."""
_ASKED_WITHIN_S = 15
"""Work that nobody has asked about for so long ends."""
_WHILE_OTHERS_WAIT_S = 2
"""The same where another job waits: a page that is looked at asks four times a second."""
_KEPT = 4
"""How many results are in memory."""

Key = tuple[Any, ...]


class Job:
    """Work that goes on in the background while somebody asks how far it is."""

    def __init__(self, quiet: threading.Event) -> None:
        self._quiet = quiet
        self.state, self.done = "running", 0.0
        self.error: Exception | None = None
        self.result: Any = None
        self.token = CancelToken()
        self.asked_at, self.patience = time.monotonic(), float(_ASKED_WITHIN_S)

    def progress(self, done: float) -> None:
        """
        Note how much is done, from 0 to 1; raise `Stopped` if nobody wants it any more.

        What a page waits for goes first: this waits for it, but no longer than a second.
        """
        self.done = done
        self._quiet.wait(1)
        if self.token.stopped or time.monotonic() > self.asked_at + self.patience:
            self.token.stopped = True
            raise Stopped


class Jobs:
    """Jobs, of which one runs at a time, and their last results."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Key, Job] = OrderedDict()
        self._lock, self._turn = threading.RLock(), threading.Lock()
        self._awaited, self._quiet = 0, threading.Event()
        self._quiet.set()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Have jobs wait during what a page waits for."""
        with self._lock:
            self._awaited += 1
            self._quiet.clear()
        try:
            yield
        finally:
            with self._lock:
                self._awaited -= 1
                if not self._awaited:
                    self._quiet.set()

    def ask(self, key: Key) -> Job | None:
        """Return a job that was started, which goes on then."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                job.asked_at = time.monotonic()
                self._jobs.move_to_end(key)
            return job

    def start(self, key: Key, work: Callable[[Job], Any]) -> Job:
        """Start a job, unless it runs or its result is known."""
        with self._lock:
            job = self.ask(key)
            if job is not None and (job.state == "running" or job.result is not None):
                return job
            for other in self._jobs.values():
                other.patience = _WHILE_OTHERS_WAIT_S
            job = self._jobs[key] = Job(self._quiet)
            for old in list(self._jobs)[:-_KEPT]:
                self._jobs.pop(old).token.stopped = True
        begun(lambda: self._run(key, job, work))  # the exit of the process does not wait for it
        return job

    def forget(self, key: Key) -> None:
        """Drop a job that has failed."""
        with self._lock:
            self._jobs.pop(key, None)

    def close(self) -> None:
        """End all jobs."""
        with self._lock:
            for job in self._jobs.values():
                job.token.stopped = True

    def _run(self, key: Key, job: Job, work: Callable[[Job], Any]) -> None:
        current_token.set(job.token)
        try:
            with self._turn:
                job.progress(0.0)
                job.result = work(job)
            job.state, job.done = "complete", 1.0
        except Stopped:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        except Exception as error:
            job.state, job.error = "failed", error


def walk(
    shown: Shown, ranges: Sequence[range], job: Job
) -> Iterator[tuple[tuple[slice, ...], AnyArray]]:
    """Yield all of a part of an array in boxes, in the order of the file; tell the job."""
    strides, itemsize = shown.header.strides, shown.ref.itemsize
    slowest_first = sorted(range(len(ranges)), key=lambda n: -strides[n])
    lengths = contiguous_shape([len(each) for each in ranges], itemsize, slowest_first, _BLOCK)
    steps = [range(r.start, r.stop, max(1, n)) for r, n in zip(ranges, lengths, strict=True)]

    def boxes() -> Iterator[tuple[slice, ...]]:
        for starts in product(*(steps[n] for n in slowest_first)):
            at = dict(zip(slowest_first, starts, strict=True))
            yield tuple(
                slice(at[n], min(at[n] + lengths[n], ranges[n].stop)) for n in range(len(ranges))
            )

    def read(box: tuple[slice, ...]) -> tuple[tuple[slice, ...], AnyArray]:
        current_token.set(job.token)  # in a thread of its own
        return box, shown.ref.read(box)

    total = math.prod(map(len, steps))
    for done, (box, data) in enumerate(side_by_side(read, boxes(), 2), 1):
        yield box, data
        job.progress(done / total)
