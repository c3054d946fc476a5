"""
Processes that move arrays are killed at random moments, while others read them.

No row is without its file, at any moment; and when it is called again, it goes on.
"""

import os
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from tests.support import processes
from tests.support.processes import Contents, Lab

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DJ_NPY_TEST_KILLS", "12"))
"""How often, in all; the long form is 300, and every database with every store."""
PLACES = processes.places(KILLS >= 300)
SIZES = (0, 10, 10_000, 500_000)
LARGE = (66 << 20) // 8
"""Elements; S3 gets them in parts, from 64 MiB on."""
ROWS = 24
DEFINITION = "n : int32\n---\nwaveform : <npy@>"


def array(n: int) -> Any:
    return np.arange(SIZES[n % len(SIZES)] if n else LARGE) + float(n)


def move(lab: Lab, table: str, ready: Any) -> None:
    """Move arrays to and fro until this process is killed."""
    recording = lab.connected().FreeTable(table)
    _ = recording.heading.attributes
    ready.send("ready")
    while True:
        store, remove = random.choice(["main", "archive"]), random.random() < 0.5
        moved = dj_npy.move(recording, "waveform", store, remove=remove)
        # The lock of a process that was killed may not be free yet.
        assert moved.counts == {}, moved
        assert all("another collection" in each for each in moved.failures), moved


@contextmanager
def reading(lab: Lab, table: str) -> Iterator[list[int]]:
    """Read rows all the time; yield the number of each that was read."""
    ended, read, failures = threading.Event(), [], []

    def run() -> None:
        instance = lab.connected()
        recording = instance.FreeTable(table)
        try:
            while not ended.is_set():
                n = random.randrange(ROWS)
                ref = (recording & {"n": n}).fetch1("waveform")
                try:
                    value = ref.load()
                except dj_npy.ArrayMissingError:
                    # It was removed since, and so the row must have been told before.
                    assert (recording & {"n": n}).fetch1("waveform").path != ref.path, ref
                    continue
                np.testing.assert_array_equal(value, array(n))
                ref.unload()
                read.append(n)
        except BaseException as error:
            failures.append(error)
        finally:
            instance.connection.close()

    reader = threading.Thread(target=run)
    reader.start()
    try:
        yield read
    finally:
        ended.set()
        reader.join()
    assert not failures, failures


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: Any, tmp_path: Path) -> Iterator[tuple[Lab, Any, Any, list[Contents]]]:
    """What other processes are told, a schema and a table, and looks into both stores."""
    name, kind = request.param
    database = request.getfixturevalue(name)
    before = database.config.stores
    folder = tmp_path / "main"
    folder.mkdir()
    lab = processes.lab(database, {"protocol": "file", "location": str(folder)}, tmp_path / "cache")
    archive, contents = processes.a_store(kind, request, f"moves/{uuid.uuid4().hex}")
    lab.stores["archive"] = database.config.stores["archive"] = archive
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    recording = schema(type("Recording", (dj.Manual,), {"definition": DEFINITION}))
    yield lab, schema, recording(), [Contents(folder, None), contents]
    schema.drop(prompt=False)
    database.config.stores = before


def test_after_kills_every_row_has_its_file_and_it_goes_on(
    place: tuple[Lab, Any, Any, list[Contents]], record_property: Any
) -> None:
    lab, schema, recording, stores = place
    recording.insert([{"n": n, "waveform": array(n)} for n in range(ROWS)])
    sessions = processes.sessions(recording.connection)
    kills = -(-KILLS // len(PLACES))
    with reading(lab, recording.full_table_name) as read:
        for _ in range(kills):
            processes.kill_one(move, lab, recording.full_table_name, most_s=2)
            assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": ROWS}
        moved = dj_npy.move(recording, "waveform", "archive")
        assert (moved.rows + moved.already, moved.counts) == (ROWS, {})
    processes.wait_for_sessions(recording.connection, sessions)
    for contents in stores:
        contents.settled()
    paths = {row["waveform"].path for row in recording.to_dicts()}
    found = dj_npy.collect(schema, older_than=timedelta(0), dry_run=False, at_most=10**6)
    figures = f"{kills} kills, {len(read)} reads, orphans {dict(found.counts)}"
    record_property("figures", figures)
    print(figures)
    assert found.ok, found.failures
    main, archive = stores
    assert main.files() == set()
    assert archive.files() == archive.listed(paths)
    assert not main.remains() + archive.remains()
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": ROWS}
