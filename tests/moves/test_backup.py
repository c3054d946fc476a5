"""`backup` and `restore`: a lost database comes back from the store, or nothing is changed."""

import gzip
import json
import os
import random
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dj_npy
from dj_npy._cli.main import main
from dj_npy._datajoint.catalog import snapshot
from dj_npy._moves import backup as backup_
from dj_npy._moves import backups as backups_
from dj_npy._moves import rowfiles
from dj_npy._moves.place import Place
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable
from tests.moves import packages
from tests.support import processes

Lab = tuple[Any, Any, Path]
"""A database, a schema of ten tables, and the folder of its backups."""


@pytest.fixture
def lab(database: Any, tmp_path: Path, store: Path) -> Iterator[Lab]:
    for name in ("archive", "backups"):
        (tmp_path / name).mkdir()
    before = database.config.stores
    database.config.stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(store)},
        "archive": {"protocol": "file", "location": str(tmp_path / "archive")},
        "backups": {"protocol": "file", "location": str(tmp_path / "backups")},
    }
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    packages.fill(packages.declare(schema))
    yield database, schema, tmp_path / "backups" / backups_.FOLDER
    lose(database, schema.database)
    database.config.stores = before


def lose(database: Any, name: str) -> None:
    """Remove a schema, and not the arrays."""
    adapter = database.connection.adapter
    if name in dj.list_schemas(database.connection):
        cascade = " CASCADE" if adapter.backend == "postgresql" else ""
        what = "SCHEMA" if adapter.backend == "postgresql" else "DATABASE"
        database.connection.query(f"DROP {what} {adapter.quote_identifier(name)}{cascade}")


def files(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file()}


def definitions(database: Any, name: str) -> dict[str, str]:
    schema = database.Schema(name)
    adapter = database.connection.adapter
    found = {}
    for table in schema.list_tables():
        full_name = adapter.make_full_table_name(name, table)
        described = dj.FreeTable(database.connection, full_name).describe()
        # What a datetime is without digits, each kind of database says otherwise.
        found[table] = " ".join(re.sub(r"datetime\([06]\)", "datetime", described).split())
    return found


def test_a_lost_database_comes_back(lab: Lab, tmp_path: Path) -> None:
    database, schema, _ = lab
    name = schema.database
    dj_npy.export(schema, tmp_path / "first")
    before, arrays = definitions(database, name), files(tmp_path / "store")
    backed_up = dj_npy.backup(schema, store="backups")
    assert backed_up.ok
    assert (len(backed_up.tables), backed_up.rows) == (10, 39)
    assert backed_up.array_stores == ["archive", "main"]
    assert backed_up.written > 0
    lose(database, name)
    restored = dj_npy.restore(store="backups", connection=database.connection)
    assert restored.ok, restored
    assert (restored.rows, len(restored.declared), restored.already) == (39, 10, 0)
    assert restored.arrays == 5 + 15 + 1
    assert restored.tables == backed_up.tables
    assert definitions(database, name) == before
    there = database.Schema(name)
    assert dj_npy.verify(there, checksums=True).ok
    dj_npy.export(there, tmp_path / "second")
    first, second = (packages.contents(tmp_path / each, name) for each in ("first", "second"))
    assert first == second
    assert files(tmp_path / "store") == arrays
    again = dj_npy.restore(there, store="backups", connection=database.connection)
    assert (again.rows, again.already, again.declared) == (0, 39, [])


def test_only_the_schemas_that_are_named_come_back_with_what_they_refer_to(
    lab: Lab, database: Any
) -> None:
    _, schema, _ = lab
    other = database.Schema(f"{schema.database}_2")
    subject = dj.FreeTable(
        database.connection,
        database.connection.adapter.make_full_table_name(schema.database, "subject"),
    )
    definition = "-> Subject\n---\nx : int32"
    other.context = {"Subject": subject}
    child = other(type("Child", (dj.Manual,), {"definition": definition}))
    child.insert1({"subject": "b", "x": 3})
    try:
        backed_up = dj_npy.backup(other, store="backups")
        assert backed_up.schemas == [other.database]
        assert backed_up.tables == {f"{schema.database}.subject": 1, f"{other.database}.child": 1}
        dj_npy.backup(schema, other, store="backups")
        lose(database, other.database)
        lose(database, schema.database)
        restored = dj_npy.restore(other.database, store="backups", connection=database.connection)
        assert restored.tables == {f"{schema.database}.subject": 4, f"{other.database}.child": 1}
        with pytest.raises(dj_npy.ArrayInvalidError, match="has no schema nowhere"):
            dj_npy.restore("nowhere", store="backups", connection=database.connection)
        rest = dj_npy.restore(store="backups", connection=database.connection)
        assert (rest.rows, rest.already) == (35, 5)
    finally:
        lose(database, other.database)


@pytest.fixture
def recordings(table: MakeTable, schema: Any) -> Any:
    """Several chunks of rows, and a few arrays."""
    text, few = random.Random(0), {6, 600, 3998}
    recording = table("n : int32\n---\nnote : varchar(2000)\nwaveform = null : <npy@>", "Recording")
    recording.insert(
        {
            "n": n,
            "note": f"{text.getrandbits(7000):x}",
            "waveform": np.arange(n) if n in few else None,
        }
        for n in range(0, 4000, 2)
    )
    return recording


def folder_of(store: Path) -> Path:
    return store / backups_.FOLDER


def chunks(store: Path) -> set[Path]:
    return set(folder_of(store).rglob("*.csv.gz"))


def test_only_what_changed_is_written(recordings: Any, schema: Any, store: Path) -> None:
    first = dj_npy.backup(schema)
    there = chunks(store)
    assert len(there) >= 2
    same = dj_npy.backup(schema)
    assert (same.written, same.nbytes) == (0, first.nbytes)
    assert chunks(store) == there
    recordings.insert1({"n": 1001, "note": "new"})
    (recordings & "n = 200").delete_quick()
    recordings.update1({"n": 3998, "note": "changed"})
    more = dj_npy.backup(schema)
    assert 0 < len(chunks(store)) - len(there) <= 4
    assert dj_npy.backups(connection=schema.connection) == [first.name, same.name, more.name]
    rows = recordings.to_dicts(order_by="n")
    recordings.delete_quick()
    restored = dj_npy.restore(connection=schema.connection)
    assert restored.rows == 2000
    assert [(r["n"], r["note"]) for r in recordings.to_dicts(order_by="n")] == [
        (r["n"], r["note"]) for r in rows
    ]
    recordings.delete_quick()
    dj_npy.restore(backup=first.name, connection=schema.connection)
    assert set(recordings.to_arrays("n")) == set(range(0, 4000, 2))
    assert np.array_equal((recordings & "n = 600").fetch1("waveform"), np.arange(600))


def test_rows_of_one_moment(
    recordings: Any, schema: Any, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while it is written, in a parent and its child, is in neither."""
    schema.context = {"Recording": recordings}
    child = table("-> Recording\nk : int8", "Child")
    real = backups_.chunks_of

    def chunks_of(*given: Any) -> Iterator[Any]:
        for each in real(*given):
            new = len(recordings()) * 2 + 1
            recordings.insert1({"n": 10_000 + new, "note": ""})
            child.insert1({"n": 10_000 + new, "k": 1})
            yield each

    monkeypatch.setattr("dj_npy._moves.backup.chunks_of", chunks_of)
    backed_up = dj_npy.backup(schema)
    assert [*backed_up.tables.values()] == [2000, 0]
    assert len(child()) >= 2


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "a value": lambda _, chunk: chunk.write_bytes(
        gzip.compress(gzip.decompress(chunk.read_bytes()).replace(b"\r\n", b"\r\n1", 1))
    ),
    "cut": lambda _, chunk: os.truncate(chunk, chunk.stat().st_size - 9),
    "longer": lambda _, chunk: chunk.write_bytes(chunk.read_bytes() + b"more"),
    "another": lambda _, chunk: chunk.write_bytes(b"n,note,waveform\r\n"),
    "a gigabyte of zeros": lambda _, chunk: chunk.write_bytes(
        gzip.compress(b"n,note,waveform\r\n" + bytes(1 << 26))
    ),
    "gone": lambda _, chunk: chunk.unlink(),
    "list: another type": lambda list_, _: edit(list_, '"type": "int32"', '"type": "int33"'),
    "list: no JSON": lambda list_, _: os.truncate(list_, 100),
    "list: a comment": lambda list_, _: edit(list_, '"comment": ""', '"comment": "x"'),
    "list: other rows": lambda list_, _: edit(list_, '"rows": ', '"rows": 1'),
    "list: a path that climbs": lambda list_, _: edit(list_, '"rows/', '"../../rows/'),
    "list: later": lambda list_, _: edit(list_, '"version": 1', '"version": 2'),
}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("change", CHANGES)
def test_a_backup_that_was_changed_is_refused_before_anything_is_changed(
    recordings: Any, schema: Any, store: Path, change: str
) -> None:
    name = dj_npy.backup(schema).name
    recordings.delete_quick()
    CHANGES[change](folder_of(store) / f"{name}.json", min(chunks(store)))
    with pytest.raises(dj_npy.NpyError) as caught:
        dj_npy.restore(connection=schema.connection)
    assert isinstance(caught.value, dj_npy.ArrayCorruptError | dj_npy.ArrayInvalidError)
    assert name in str(caught.value) or "rows/" in str(caught.value)
    if change != "list: later":
        assert "Restore another" in str(caught.value)
    assert len(recordings()) == 0


def test_a_damaged_chunk_of_the_last_table_is_found_before_the_first_is_declared(
    lab: Lab,
) -> None:
    database, schema, folder = lab
    dj_npy.backup(schema, store="backups")
    lose(database, schema.database)
    [chunk] = folder.glob("rows/*.summary/*.csv.gz")
    chunk.write_bytes(gzip.compress(gzip.decompress(chunk.read_bytes()) + b"x\r\n"))
    with pytest.raises(dj_npy.ArrayCorruptError, match=r"summary.*Restore another backup"):
        dj_npy.restore(store="backups", connection=database.connection)
    assert schema.database not in dj.list_schemas(database.connection)


def test_rows_that_refer_to_other_files_are_others(table: MakeTable, schema: Any) -> None:
    """As those of DataJoint's own codec, which have no checksum."""
    scan = table("n : int32\n---\nmovie : <npy@>", "Scan")
    scan.insert1({"n": 1, "movie": np.ones(3)})
    row = {"path": "a.npy", "store": "main", "dtype": "float64", "shape": [3]}

    def say(path: str) -> None:
        text = json.dumps({**row, "path": path})
        schema.connection.query(f"UPDATE {scan.full_table_name} SET movie = '{text}'")

    say("a.npy")
    dj_npy.backup(schema)
    assert dj_npy.restore(connection=schema.connection).already == 1
    say("b.npy")
    with pytest.raises(dj_npy.ArrayInvalidError, match="rows that differ"):
        dj_npy.restore(connection=schema.connection)


def test_what_is_there_and_differs_is_refused(
    recordings: Any, schema: Any, table: MakeTable
) -> None:
    dj_npy.backup(schema)
    recordings.update1({"n": 4, "note": "mine"})
    (recordings & "n > 5").delete_quick()
    with pytest.raises(dj_npy.ArrayInvalidError, match="rows that differ from those of the"):
        dj_npy.restore(connection=schema.connection)
    assert len(recordings()) == 3
    recordings.drop_quick()
    table("n : int32\n---\nnote : varchar(2000)\nwaveform = null : <npy@>\nx : int8", "Recording")
    with pytest.raises(dj_npy.ArrayInvalidError, match="another table than that of the backup"):
        dj_npy.restore(connection=schema.connection)


def test_without_space_earlier_backups_are_as_they_were(
    recordings: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dj_npy.backup(schema).name
    before = files(folder_of(store))
    recordings.insert({"n": n, "note": "x" * 2000} for n in range(1, 4000, 2))
    with monkeypatch.context() as patched:
        left, real = [2], LocalStore._create

        def create(self: Any, *given: Any) -> str:
            left[0] -= 1
            if left[0] < 0:
                raise self.translate_error(OSError(28, "No space left on device"), "x", "write")
            return real(self, *given)

        patched.setattr(LocalStore, "_create", create)
        with pytest.raises(dj_npy.StoreError, match="disk is full"):
            dj_npy.backup(schema)
    now = files(folder_of(store))
    assert {path: now[path] for path in before} == before
    assert dj_npy.backups(connection=schema.connection) == [first]
    # What was written until then is not written again.
    assert all(path.endswith(".csv.gz") for path in now.keys() - before.keys())
    again = dj_npy.backup(schema)
    assert files(folder_of(store)).items() > now.items()
    assert again.rows == 4000


def test_an_empty_mount_point_is_no_store(recordings: Any, schema: Any, store: Path) -> None:
    store.rename(store.with_name("away"))
    store.mkdir()
    with pytest.raises(dj_npy.StoreError, match="refused to write"):
        dj_npy.backup(schema)
    assert list(store.iterdir()) == []


def test_a_backup_that_took_too_long_is_given_up(
    recordings: Any, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have removed some of its chunks."""
    first = dj_npy.backup(schema).name
    monkeypatch.setattr(backups_, "_LONGEST_BACKUP", timedelta(seconds=-1))
    with pytest.raises(dj_npy.StoreError, match=r"took longer.*fewer schemas"):
        dj_npy.backup(schema)
    assert dj_npy.backups(connection=schema.connection) == [first]


def test_chunks_of_no_list_count_while_they_are_young(
    recordings: Any, schema: Any, store: Path
) -> None:
    """As `keep` may remove older ones at any moment."""

    def lose_lists() -> None:
        for path in folder_of(store).glob("*.json"):
            path.unlink()

    first = dj_npy.backup(schema)
    lose_lists()
    assert dj_npy.backup(schema).written == 0
    lose_lists()
    age(chunks(store), 13)
    assert dj_npy.backup(schema).written == first.written


def test_a_store_that_is_not_configured_is_told_before_anything_is_declared(lab: Lab) -> None:
    database, schema, _ = lab
    dj_npy.backup(schema, store="backups")
    lose(database, schema.database)
    del database.config.stores["archive"]
    with pytest.raises(dj_npy.StoreError, match=r"archive.*Nothing was changed"):
        dj_npy.restore(store="backups", connection=database.connection)
    assert schema.database not in dj.list_schemas(database.connection)


def test_earlier_backups_that_cannot_be_removed_are_told(
    recordings: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        dj_npy.backup(schema)
    age(folder_of(store).glob("*.json"), 25)

    def remove(self: Any, path: str) -> None:
        raise dj_npy.StoreError("not allowed")

    with monkeypatch.context() as patched:
        patched.setattr(Place, "remove", remove)
        with pytest.raises(
            dj_npy.StoreError, match=r"was written, but not all.*not allowed"
        ) as told:
            dj_npy.backup(schema, keep=1)
    assert dj_npy.backups(connection=schema.connection)[-1] in str(told.value)


def age(paths: Any, hours: float) -> None:
    for path in paths:
        os.utime(path, (time.time() - 3600 * hours,) * 2)


def test_old_backups_go_and_their_chunks(recordings: Any, schema: Any, store: Path) -> None:
    names = []
    for n in range(4):
        recordings.update1({"n": 100, "note": f"change {n}"})
        names.append(dj_npy.backup(schema, keep=1).name)
    lists = [folder_of(store) / f"{name}.json" for name in names]
    assert all(each.exists() for each in lists)  # younger than a day
    orphan = folder_of(store) / "rows" / "x.recording" / f"{'0' * 64}.00000000.csv.gz"
    orphan.parent.mkdir()
    orphan.write_bytes(b"of a backup that was killed")
    young = orphan.with_name(f"{'1' * 64}.00000000.csv.gz")
    mine = folder_of(store) / "README"
    mine.write_text("mine")
    before = chunks(store)
    age([*lists[:3], *before, mine], 25)
    young.write_bytes(b"of a backup that goes on")
    last = dj_npy.backup(schema, keep=2)
    assert last.written == 0  # old chunks of the newest list count, those of none do not
    assert last.removed == 2  # the newest that is older than a day stays
    assert [each.exists() for each in lists] == [False, False, True, True]
    assert (orphan.exists(), young.exists(), mine.exists()) == (False, True, True)
    assert len(before - chunks(store)) == 1 + 2
    for name in (*names[2:], last.name):
        recordings.delete_quick()
        assert dj_npy.restore(backup=name, connection=schema.connection).rows == 2000


def test_a_clock_that_is_ahead(recordings: Any, schema: Any, store: Path) -> None:
    first = dj_npy.backup(schema)
    there = folder_of(store)
    later = "2999-01-01T000000.000000Z"
    (there / f"{first.name}.json").rename(there / f"{later}.json")
    second = dj_npy.backup(schema)
    assert later < second.name < "2999-01-01T000002"  # any: another process may begin from it, too
    assert second.written == 0
    assert dj_npy.backups(connection=schema.connection) == [later, second.name]


def test_a_missing_array_is_told(recordings: Any, schema: Any, store: Path) -> None:
    dj_npy.backup(schema)
    path = (recordings & "n = 600").fetch1("waveform").path
    recordings.delete_quick()
    (store / path).unlink()
    restored = dj_npy.restore(connection=schema.connection)
    assert not restored.ok
    assert (restored.rows, restored.arrays) == (2000, 3)
    [finding] = restored.findings
    assert (finding.what, finding.key, finding.path) == ("missing", {"n": 600}, path)
    assert "missing: " in str(restored)


def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    database, schema, _ = lab
    dj_npy.backup(schema, store="backups")
    lose(database, schema.database)
    restored = dj_npy.restore(store="backups", connection=database.connection, dry_run=True)
    assert (restored.rows, restored.declared, restored.dry_run) == (39, [], True)
    assert "39 rows" in str(restored)
    assert schema.database not in dj.list_schemas(database.connection)


@pytest.mark.parametrize("to", ["postgresql", "mysql", "mariadb"])
def test_another_kind_of_database(
    lab: Lab, to: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database, schema, _ = lab
    other = request.getfixturevalue(to)
    if other is database:
        return
    dj_npy.export(schema, tmp_path / "first")
    dj_npy.backup(schema, store="backups")
    before, other.config.stores = other.config.stores, database.config.stores
    try:
        restored = dj_npy.restore(store="backups", connection=other.connection)
        assert (restored.ok, restored.rows) == (True, 39)
        dj_npy.export(other.Schema(schema.database), tmp_path / "second")
        first, second = (
            packages.contents(tmp_path / each, schema.database) for each in ("first", "second")
        )
        # MariaDB has no -0.0 and keeps a JSON's order of names; its rows are compared elsewhere.
        assert first.keys() == second.keys()
        assert {k: v for k, v in first.items() if k.endswith(".npy")} == {
            k: v for k, v in second.items() if k.endswith(".npy")
        }
    finally:
        lose(other, schema.database)
        other.config.stores = before


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("database", ["mysql", "mariadb"], indirect=True)
def test_native_types_come_back_as_they_were(database: Any) -> None:
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    name = schema.database
    query = database.connection.query
    query(
        f"CREATE TABLE `{name}`.`scan` (n int unsigned NOT NULL AUTO_INCREMENT, "
        "kind smallint unsigned NOT NULL DEFAULT 3, image mediumblob, day year, "
        "at timestamp NULL, note varchar(30) NOT NULL DEFAULT '', big bigint unsigned, "
        "PRIMARY KEY (n))"
    )
    query(
        f"INSERT INTO `{name}`.`scan` (image, day, at, big) VALUES "
        "(x'0001ff', 2024, '2024-01-01 12:00:00', 18446744073709551615), (NULL, 1999, NULL, 0)"
    )

    def columns() -> list[Any]:
        return list(
            query(
                "SELECT column_name, column_type, extra, is_nullable FROM "
                f"information_schema.columns WHERE table_schema = '{name}' AND table_name = 'scan' "
                "ORDER BY ordinal_position"
            )
        )

    before, rows = columns(), list(query(f"SELECT * FROM `{name}`.`scan` ORDER BY n"))
    dj_npy.backup(schema)
    try:
        lose(database, name)
        restored = dj_npy.restore(connection=database.connection)
        assert restored.rows == 2
        assert columns() == before
        assert list(query(f"SELECT * FROM `{name}`.`scan` ORDER BY n")) == rows
    finally:
        lose(database, name)


@pytest.mark.parametrize("database", ["postgresql", "mysql"], indirect=True)
def test_files_of_other_codecs_stay_where_they_are(table: MakeTable, schema: Any) -> None:
    """DataJoint cannot insert such values into MariaDB."""
    scan = table("n : int32\n---\nimage : <blob@>\nwaveform : <npy@>", "Scan")
    scan.insert1({"n": 1, "image": np.arange(100), "waveform": np.arange(5)})
    dj_npy.backup(schema)
    scan.delete_quick()
    assert dj_npy.restore(connection=schema.connection).ok
    assert np.array_equal(scan.fetch1("image"), np.arange(100))
    assert np.array_equal(scan.fetch1("waveform"), np.arange(5))
    scan.update1({"n": 1, "image": np.arange(3)})
    with pytest.raises(dj_npy.ArrayInvalidError, match="rows that differ"):
        dj_npy.restore(connection=schema.connection)


def test_an_account_that_may_only_read(
    reader: Callable[..., Any], postgresql: Any, tmp_path: Path
) -> None:
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")
    before = postgresql.config.stores
    (tmp_path / "main").mkdir()
    postgresql.config.stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(tmp_path / "main")},
    }
    try:
        recording = schema(
            type("Recording", (dj.Manual,), {"definition": "n : int32\n---\nx : int8"})
        )
        recording.insert1({"n": 1, "x": 2})
        name = schema.database
        connection = reader(
            f'GRANT USAGE ON SCHEMA "{name}" TO ROLE',
            f'GRANT SELECT ON ALL TABLES IN SCHEMA "{name}" TO ROLE',
        )
        connection._config = postgresql.config
        backed_up = dj_npy.backup(dj.Schema(name, connection=connection, create_schema=False))
        assert backed_up.rows == 1
        lose(postgresql, name)
        assert dj_npy.restore(connection=postgresql.connection).rows == 1
        assert recording.fetch1() == {"n": 1, "x": 2}
    finally:
        lose(postgresql, schema.database)
        postgresql.config.stores = before


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["moto", "rclone", "seaweedfs"])
def test_a_backup_in_a_bucket(
    recordings: Any, schema: Any, kind: str, request: pytest.FixtureRequest, database: Any
) -> None:
    bucket, _ = processes.a_store(kind, request, f"backups/{uuid.uuid4().hex}")
    database.config.stores["bucket"] = bucket
    first = dj_npy.backup(schema, store="bucket")
    assert dj_npy.backup(schema, store="bucket", keep=1).written == 0
    assert dj_npy.backups("bucket", connection=schema.connection)[0] == first.name
    recordings.delete_quick()
    restored = dj_npy.restore(store="bucket", connection=schema.connection)
    assert (restored.rows, restored.arrays, restored.ok) == (2000, 3, True)


@pytest.mark.usefixtures("configured")
def test_the_commands(
    recordings: Any,
    schema: Any,
    stores: dict[str, Any],
    capsys: Any,
    store: Path,
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(partial(setattr, dj.config, "stores", dj.config.stores))
    dj.config.stores = stores
    with snapshot(schema.connection) as now:
        assert schema.database in backup_._schemas_of_datajoint(now)  # without names, all of them
    assert main(["backup", schema.database, "--json", "--keep", "3"]) == 0
    backed_up = json.loads(capsys.readouterr().out)
    assert main(["backup", schema.database]) == 0
    assert "2,000 rows of 1 table," in capsys.readouterr().out
    assert main(["restore", "--list"]) == 0
    assert capsys.readouterr().out.split()[0] == backed_up["name"]
    kept = (recordings & "n = 6").fetch1("waveform").path
    recordings.delete_quick()
    assert main(["restore", schema.database, "--dry-run"]) == 0
    assert "would be inserted" in capsys.readouterr().out
    assert main(["restore", schema.database]) == 0
    assert len(recordings()) == 2000
    assert (recordings & "n = 6").fetch1("waveform").path == kept
    shutil.rmtree(folder_of(store))
    assert main(["restore"]) == 1
    assert "there is no backup in store" in capsys.readouterr().err
    assert main(["backup", "--keep", "0"]) == 1
    assert "keep is a number" in capsys.readouterr().err


def test_wrong_calls(recordings: Any, schema: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="give the schema of the table"):
        dj_npy.backup(recordings)
    with pytest.raises(dj_npy.ArrayInvalidError, match="there is no backup in store"):
        dj_npy.restore(connection=schema.connection)
    dj_npy.backup(schema)
    for name in ("../x", "2026-11-28", 3):
        with pytest.raises(dj_npy.ArrayInvalidError, match=r"dj_npy.backups\('main'\) lists them"):
            dj_npy.restore(backup=name, connection=schema.connection)  # type: ignore[arg-type]
    with schema.connection.transaction:
        for call in (dj_npy.backup, lambda _: dj_npy.restore(connection=schema.connection)):
            with pytest.raises(dj_npy.StoreError, match="transaction"):
                call(schema)


ROWS = st.lists(st.tuples(st.integers(), st.text(max_size=5)), max_size=50)


@given(ROWS)
def test_chunks_are_the_rows(rows: list[tuple[int, str]]) -> None:
    cells = [[str(n), text * 100_000] for n, text in rows]
    found = list(backups_.chunks_of(iter(cells), [0]))
    assert [row for chunk in found for row in chunk] == cells
    assert all(found)


def test_a_row_that_is_added_changes_two_chunks_at_most() -> None:
    text = random.Random(1)
    rows = [[f"{n:06}", f"{text.getrandbits(4000):x}"] for n in range(20_000)]
    before = list(backups_.chunks_of(iter(rows), [0]))
    assert len(before) > 5
    for _ in range(20):
        at = text.randrange(20_000)
        changed = [*rows[:at], [f"{at:06}a", "new"], *rows[at:]]
        after = list(backups_.chunks_of(iter(changed), [0]))
        assert sum(chunk not in before for chunk in after) <= 2


@pytest.mark.parametrize("nbytes", [0, 1, rowfiles._PIECE, rowfiles._PIECE + 1])
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_gzipped_file_is_read_to_its_end_and_no_further(nbytes: int, size: int) -> None:
    """Where the text ends with a piece of it, zlib tells of what follows in another way."""
    zipped = gzip.compress(bytes(nbytes))

    def unzipped(given: bytes) -> bytes:
        pieces = [memoryview(given[i : i + size]) for i in range(0, len(given), size)]
        return b"".join(rowfiles._unzipped(pieces))

    assert unzipped(zipped) == bytes(nbytes)
    for bad in (zipped + b"m", zipped + bytes(1000), zipped + zipped, zipped[:-1], zipped[:5]):
        with pytest.raises((ValueError, zlib.error)):
            unzipped(bad)
