"""Processes that back up and restore are killed at random moments; memory does not grow."""

import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._moves.backups import FOLDER, Backups
from tests.support import processes
from tests.support.processes import Lab, context

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DJ_NPY_TEST_KILLS", "6"))
"""How often, for each database, backups and restores each; the long form is 300."""
ROWS = 3000
DEFINITION = "n : int32\n---\nnote : varchar(1500)\nwaveform = null : <npy@>"
PART = "-> Recording\nk : int8\n---\nx : float64"


@pytest.fixture
def place(database: Any, store: Path, tmp_path: Path) -> Iterator[tuple[Lab, Any]]:
    """A schema of two tables, of several chunks."""
    before = database.config.stores
    lab = processes.lab(database, {"protocol": "file", "location": str(store)}, tmp_path / "cache")
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    recording = schema(type("Recording", (dj.Manual,), {"definition": DEFINITION}))
    schema.context = {"Recording": recording}
    note = schema(type("Note", (dj.Manual,), {"definition": PART}))
    text = random.Random(0)
    recording.insert(
        {
            "n": n,
            "note": f"{text.getrandbits(5000):x}",
            "waveform": None if n % 100 else np.arange(n),
        }
        for n in range(ROWS)
    )
    note.insert({"n": n, "k": 1, "x": n / 3} for n in range(ROWS))
    yield lab, schema
    schema.drop(prompt=False)
    database.config.stores = before


def back_up(lab: Lab, schema: str, ready: Any) -> None:
    """Change a row and back up, until this process is killed."""
    instance = lab.connected()
    opened = instance.Schema(schema)
    name = instance.connection.adapter.make_full_table_name(schema, "recording")
    table = dj.FreeTable(instance.connection, name)
    ready.send("ready")
    while True:
        table.update1({"n": random.randrange(ROWS), "note": uuid.uuid4().hex})
        dj_npy.backup(opened)


def bring_back(lab: Lab, schema: str, ready: Any) -> None:
    """Restore until this process is killed."""
    instance = lab.connected()
    ready.send("ready")
    dj_npy.restore(schema, connection=instance.connection)
    ready.send("done")
    time.sleep(60)


def test_each_backup_is_whole(place: tuple[Lab, Any], store: Path) -> None:
    lab, schema = place
    known: dict[str, bytes] = {}
    backups = Backups(schema.connection._config, None)
    for _ in range(KILLS):
        processes.kill_one(back_up, lab, schema.database, most_s=3)
        lists = {path.stem: path.read_bytes() for path in (store / FOLDER).glob("*.json")}
        assert known.items() <= lists.items()
        for name in lists.keys() - known.keys():
            _, found = backups.read(name)
            # Each chunk is compared with what the list says of it.
            assert sum(1 for table in found.tables for _ in backups.rows(*table)) == 2 * ROWS
        known = lists
    newest = dj_npy.backup(schema)
    restored = dj_npy.restore(backup=newest.name, connection=schema.connection, dry_run=True)
    assert (restored.rows, restored.already) == (0, 2 * ROWS)
    print(f"{KILLS} kills left {len(known)} backups")


def rows_of(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_dicts(order_by="n")
    for row in rows:
        row["waveform"] = getattr(row.get("waveform"), "path", None)
    return rows


def test_a_restore_that_was_killed_goes_on(place: tuple[Lab, Any], database: Any) -> None:
    lab, schema = place
    dj_npy.backup(schema)
    adapter = database.connection.adapter
    tables = [
        dj.FreeTable(database.connection, adapter.make_full_table_name(schema.database, name))
        for name in ("note", "recording")
    ]
    expected = [rows_of(table) for table in tables]
    sessions = processes.sessions(database.connection)
    partly = 0
    for _ in range(KILLS):
        for table in tables:
            database.connection.query(f"DROP TABLE IF EXISTS {table.full_table_name}")
        processes.kill_one(bring_back, lab, schema.database, most_s=2.5)
        processes.wait_for_sessions(database.connection, sessions)
        restored = dj_npy.restore(schema.database, connection=database.connection)
        assert restored.ok
        assert restored.rows + restored.already == 2 * ROWS
        partly += 0 < restored.already < 2 * ROWS
        for table, rows in zip(tables, expected, strict=True):
            assert rows_of(dj.FreeTable(database.connection, table.full_table_name)) == rows
    assert dj_npy.verify(schema, checksums=True).ok
    print(f"{KILLS} kills; {partly} of the restores after them found some rows")


def measured(lab: Lab, schema: str, answer: Any) -> None:
    """Back up and restore; answer by how much the most of memory has grown."""
    instance = lab.connected()
    opened = instance.Schema(schema)

    def most() -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

    dj_npy.backup(opened)
    dj_npy.restore(schema, connection=instance.connection)
    before = most()
    name = instance.connection.adapter.make_full_table_name(schema, "note")
    table = dj.FreeTable(instance.connection, name)
    table.insert([{"n": n, "k": k, "x": n / k} for n in range(ROWS) for k in range(2, 62)])
    of_insert = most()
    dj_npy.backup(opened)
    of_backup = most() - max(before, of_insert)
    table.delete_quick()
    restored = dj_npy.restore(schema, connection=instance.connection)
    answer.send((of_backup, most() - max(before, of_insert), restored.rows))


def test_memory_does_not_grow_with_rows(place: tuple[Lab, Any]) -> None:
    lab, schema = place
    answer, of_process = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(lab, schema.database, of_process))
    process.start()
    assert answer.poll(300)
    of_backup, of_restore, rows = answer.recv()
    process.join()
    assert rows == 61 * ROWS
    assert of_backup < 64 << 20
    assert of_restore < 64 << 20
