"""
Processes that insert are interrupted by exceptions, and killed, at random moments.

Every row has its whole file, and `collect` removes all else.
"""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import chain, count
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DuplicateError

import dj_npy
from tests.support import processes
from tests.support.processes import Contents, Lab, context

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DJ_NPY_TEST_KILLS", "12"))
"""How often, in all; the long form is 300, and every database with every store."""
PLACES = processes.places(KILLS >= 300)
AT_ONCE = 2
WAYS = ("one", "many", "transaction", "large")
LARGE = (66 << 20) // 8
"""Elements; S3 gets them in parts, from 64 MiB on."""
ERRORS = (TimeoutError, KeyboardInterrupt, DuplicateError)
DEFINITION = "worker : varchar(32)\nn : int32\n---\nwaveform : <npy@>"


def insert(lab: Lab, table: str, way: str, ready: Any) -> None:
    """Insert until this process is killed."""
    instance = lab.connected()
    recording = instance.FreeTable(table)
    generator, worker, number = np.random.default_rng(), uuid.uuid4().hex, count()
    same_but_for_case = 2 if instance.connection.adapter.backend == "postgresql" else 1

    def row(size: int) -> dict[str, Any]:
        # Keys that differ in case only; MySQL takes them for one unless they differ otherwise.
        n = next(number)
        name = worker.upper() if n % 2 else worker
        return {"worker": name, "n": n // same_but_for_case, "waveform": generator.random(size)}

    def small() -> dict[str, Any]:
        return row(int(generator.choice([0, 10, 10_000, 500_000])))

    def once() -> None:
        if way == "one":
            recording.insert1(small())
        elif way == "many":
            dj_npy.insert(recording, [small() for _ in range(12)], max_workers=4)
        elif way == "transaction":
            with instance.connection.transaction:
                recording.insert1(small())
                recording.insert1(small())
        else:
            recording.insert1(row(LARGE))

    _ = recording.heading.attributes
    ready.send("ready")
    begun = time.monotonic()
    once()
    typical_s = time.monotonic() - begun
    while True:
        interruptible(once, random.expovariate(1 / (2 * typical_s)))
        processes.reconnect_if_lost(instance.connection)


def interruptible(action: Callable[[], None], after_s: float) -> None:
    """Do something, into which an exception bursts after that time, if it is not done by then."""
    burst = []

    def ring(*_: Any) -> None:
        burst.append(random.choice(ERRORS)("at a random moment"))
        raise burst[0]

    signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        action()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException:  # its own, or what came of it
        if not burst:
            raise


class Writer:
    """A process that inserts."""

    def __init__(self, lab: Lab, table: str, way: str) -> None:
        self._way = way
        self._ready, ready = context.Pipe(duplex=False)
        self._process = context.Process(target=insert, args=(lab, table, way, ready), daemon=True)
        self._process.start()
        ready.close()

    def kill(self) -> None:
        """Kill it some time after it has begun."""
        assert self._ready.poll(60)
        assert self._ready.recv() == "ready"
        time.sleep(random.uniform(0, 1.5 if self._way == "large" else 0.5))
        self.end()

    def end(self) -> None:
        """Kill it now."""
        assert self._process.is_alive(), "it ended by itself"
        self._process.kill()
        self._process.join()
        self._ready.close()


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: Any, tmp_path: Path) -> Iterator[tuple[Lab, Any, Any, Contents]]:
    """What writers are told, their schema and table, and a look into their store."""
    name, kind = request.param
    database = request.getfixturevalue(name)
    before = database.config.stores
    store, contents = processes.a_store(kind, request, f"kills/{uuid.uuid4().hex}")
    lab = processes.lab(database, store, tmp_path / "cache")
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    recording = schema(type("Recording", (dj.Manual,), {"definition": DEFINITION}))
    yield lab, schema, recording(), contents
    schema.drop(prompt=False)
    database.config.stores = before


def test_after_kills_every_row_has_its_whole_file_and_all_else_is_collected(
    place: tuple[Lab, Any, Any, Contents], record_property: Any
) -> None:
    lab, schema, recording, contents = place
    kills = -(-KILLS // len(PLACES))
    ways = chain(["large"], (random.choice(WAYS) for _ in count()))
    recording.insert1({"worker": "the test", "n": 0, "waveform": np.arange(3)})

    sessions = processes.sessions(recording.connection)

    def writer() -> Writer:
        return Writer(lab, recording.full_table_name, next(ways))

    writers = [writer() for _ in range(min(AT_ONCE, kills))]
    for n in range(kills):
        writers[n % len(writers)].kill()
        if n + len(writers) < kills:
            writers[n % len(writers)] = writer()

    processes.wait_for_sessions(recording.connection, sessions)
    files = contents.settled()
    paths = {row["waveform"].path for row in recording.to_dicts()}
    n = len(recording)
    live = contents.listed(paths)
    assert len(live) == n
    assert live <= files
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": n}
    found = dj_npy.collect(schema, older_than=timedelta(0), dry_run=False, at_most=10**6)
    figures = f"{kills} kills, {n} rows, orphans {dict(found.counts)}"
    record_property("figures", figures)
    print(figures)
    assert found.ok, found.failures
    # A file whose path is that of a row but for case may be the row's, on some disk.
    of_rows = {path.lower() for path in paths}
    spared = {path for path in files if path.lower() in of_rows}
    assert found.live == len(spared)
    assert contents.files() == spared
    assert not contents.remains()
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": n}
