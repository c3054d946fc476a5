"""Processes that export and import are killed at random moments; memory does not grow."""

import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from tests.support import processes
from tests.support.processes import Lab, context

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DJ_NPY_TEST_KILLS", "12"))
"""How often, for each database, exports and imports each; the long form is 300."""
ROWS = 60
DEFINITION = "n : int32\n---\nnote : varchar(30)\nwaveform : <npy@>"
PART = "-> Recording\nk : int8\n---\nx : float64\ny = null : <npy@>"


def array(n: int) -> Any:
    return np.arange(1000.0 * (n % 7)) + n


@pytest.fixture
def place(database: Any, store: Path, tmp_path: Path) -> Iterator[tuple[Lab, Any]]:
    """A schema of two tables."""
    before = database.config.stores
    lab = processes.lab(database, {"protocol": "file", "location": str(store)}, tmp_path / "cache")
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    recording = schema(type("Recording", (dj.Manual,), {"definition": DEFINITION}))
    schema.context = {"Recording": recording}
    note = schema(type("Note", (dj.Manual,), {"definition": PART}))
    recording.insert([{"n": n, "note": f"n{n}", "waveform": array(n)} for n in range(ROWS)])
    note.insert(
        [{"n": n, "k": 1, "x": n / 3, "y": array(n) if n % 2 else None} for n in range(ROWS)]
    )
    yield lab, schema
    schema.drop(prompt=False)
    database.config.stores = before


def export(lab: Lab, schema: str, folder: str, ready: Any) -> None:
    """Export until this process is killed."""
    instance = lab.connected()
    opened = instance.Schema(schema)
    ready.send("ready")
    while True:
        if os.path.exists(f"{folder}/datapackage.json"):
            gone = f"{folder}-{uuid.uuid4().hex}"
            os.rename(folder, gone)  # at once: killed in the middle, half a package would be left
            shutil.rmtree(gone)
        dj_npy.export(opened, folder)


def import_(lab: Lab, schema: str, folder: str, ready: Any) -> None:
    """Import until this process is killed."""
    instance = lab.connected()
    ready.send("ready")
    dj_npy.import_package(folder, schemas=schema, connection=instance.connection)
    ready.send("done")
    time.sleep(60)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "datapackage.json"
    }


def test_an_export_that_was_killed_goes_on(place: tuple[Lab, Any], tmp_path: Path) -> None:
    lab, schema = place
    expected = tmp_path / "expected"
    dj_npy.export(schema, expected)
    folder, finished = tmp_path / "package", 0
    for _ in range(KILLS):
        processes.kill_one(export, lab, schema.database, str(folder), most_s=2.5)
        if (folder / "datapackage.json").exists():
            finished += 1
            dj_npy.import_package(folder, connection=schema.connection, dry_run=True)
            shutil.rmtree(folder)
        elif random.random() < 0.5:
            assert dj_npy.export(schema, folder).ok
            assert contents(folder) == contents(expected)
            shutil.rmtree(folder)
    print(f"{KILLS} kills, of which {finished} left a package")


def test_an_import_that_was_killed_goes_on(
    place: tuple[Lab, Any], tmp_path: Path, database: Any, store: Path
) -> None:
    lab, schema = place
    folder = tmp_path / "package"
    dj_npy.export(schema, folder)
    name = f"{schema.database}_2"
    sessions = processes.sessions(database.connection)
    partly = 0
    for n in range(KILLS):
        processes.kill_one(import_, lab, name, str(folder), most_s=1.5)
        processes.wait_for_sessions(database.connection, sessions)
        if name not in dj.list_schemas(database.connection):
            continue
        there = database.Schema(name)
        if there.list_tables():
            assert dj_npy.verify(there, checksums=True).ok  # each row has its file
        if n % 3 == 2:
            imported = dj_npy.import_package(folder, schemas=name, connection=database.connection)
            assert imported.rows + imported.already == 2 * ROWS
            partly += 0 < imported.already < 2 * ROWS
            again = tmp_path / f"again{n}"
            dj_npy.export(there, again)
            for path in folder.rglob("*.npy"):
                of = str(path.relative_to(folder)).replace(schema.database, name)
                assert (again / of).read_bytes() == path.read_bytes()
            there.drop(prompt=False)
    if name in dj.list_schemas(database.connection):
        database.Schema(name).drop(prompt=False)
    print(f"{KILLS} kills; {partly} of the imports after them found some rows")


def measured(lab: Lab, schema: str, folder: str, rows: int, answer: Any) -> None:
    """Export and import so many rows; answer by how much the most of memory has grown."""
    instance = lab.connected()
    opened = instance.Schema(schema)

    def most() -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

    warm = instance.FreeTable(opened.connection.adapter.make_full_table_name(schema, "recording"))
    dj_npy.export(warm & "n < 3000", f"{folder}-warm")
    dj_npy.import_package(f"{folder}-warm", schemas=f"{schema}_2", connection=instance.connection)
    before = most()
    dj_npy.export(warm, folder)
    of_export = most() - before
    dj_npy.import_package(folder, schemas=f"{schema}_2", connection=instance.connection)
    answer.send((of_export, most() - before))
    assert rows


def test_memory_does_not_grow_with_rows(
    place: tuple[Lab, Any], tmp_path: Path, database: Any
) -> None:
    lab, schema = place
    rows = 60_000
    table = dj.FreeTable(
        database.connection,
        database.connection.adapter.make_full_table_name(schema.database, "recording"),
    )
    table.delete(prompt=False)
    table.insert1({"n": 0, "note": "x" * 30, "waveform": array(1)})
    name = table.full_table_name
    waveform = database.connection.adapter.quote_identifier("waveform")
    done = 1
    while done < rows:
        some = min(done, rows - done)
        database.connection.query(
            f"INSERT INTO {name} SELECT n + {done}, note, {waveform} FROM {name} WHERE n < {some}"
        )
        done += some
    ready, of_process = context.Pipe(duplex=False)
    process = context.Process(
        target=measured,
        args=(lab, schema.database, str(tmp_path / "package"), rows, of_process),
        daemon=True,
    )
    process.start()
    of_process.close()
    assert ready.poll(900)
    grown = ready.recv()
    process.kill()
    process.join()
    database.Schema(f"{schema.database}_2").drop(prompt=False)
    print(f"{rows:,} rows: {grown[0] / 2**20:.1f} and {grown[1] / 2**20:.1f} MiB more")
    assert max(grown) < 64 << 20
