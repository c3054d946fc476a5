"""`collect`: what no row refers to goes, and nothing else ever does."""

import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DataJointError

import dj_npy
import dj_npy._stores.local.store
import dj_npy._upkeep.collect
from tests.support import processes
from tests.support.servers import S3Raw, files, s3_client, s3_settings

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


def folders(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}


def paths(table: Any) -> set[str]:
    return {row["waveform"].path for row in table.to_dicts()}


def test_nothing_is_removed_unless_told(
    rows: Any, orphans: set[str], schema: Any, store: Path
) -> None:
    before = files(store)
    found = dj_npy.collect(schema, older_than=NOW)
    assert {orphan.path for orphan in found.orphans} == orphans
    assert found.counts == {"array": 3}
    assert found.live == 3
    assert found.nbytes == 3 * (128 + WAVEFORM.nbytes)
    assert found.removed == 0
    assert files(store) == before
    assert "3 orphans of 672 bytes (3 array)" in str(found)
    assert "dry run" in str(found)
    loaded = json.loads(found.to_json())
    assert {orphan["path"] for orphan in loaded["orphans"]} == orphans
    assert loaded["counts"] == {"array": 3}


def test_what_no_row_refers_to_goes_with_its_folders(
    rows: Any, orphans: set[str], schema: Any, store: Path
) -> None:
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == len(orphans) == 3
    assert found.ok
    assert files(store) == paths(rows)
    assert not any(path.endswith("=0") for path in folders(store))
    assert dj_npy.verify(rows, checksums=True).counts == {"as inserted": 3}
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 0
    rows.insert1({"recording_id": 0, "waveform": WAVEFORM})  # the folder is made anew
    assert (rows & "recording_id=0").fetch1("waveform").verify() == "as inserted"


def test_what_is_young_is_spared(rows: Any, orphans: set[str], schema: Any, store: Path) -> None:
    before = files(store)
    assert dj_npy.collect(schema, dry_run=False).young == 3
    assert files(store) == before
    old = time.time() - 2 * 86400
    [one, *_] = orphans
    os.utime(store / one, (old, old))
    assert dj_npy.collect(schema, dry_run=False).removed == 1
    assert files(store) == before - {one}


def test_what_was_rolled_back_or_killed_goes(rows: Any, schema: Any, store: Path) -> None:
    rows.connection.start_transaction()
    rows.insert1({"recording_id": 50, "waveform": WAVEFORM})
    rows.connection.query("ROLLBACK")  # by hand: of that nobody takes note
    rows.connection.cancel_transaction()
    folder = store / schema.database / "recording" / "recording_id=60"
    folder.mkdir()
    (folder / f".{'0' * 16}.dj-npy-tmp").write_bytes(b"half")
    (folder / "waveform.npy").write_bytes(b"")  # a reservation, where there are no links
    (store / schema.database / "recording" / "recording_id=61").mkdir()
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.counts == {"array": 1, "temporary file": 1, "reservation": 1}
    assert files(store) == paths(rows)
    assert len(folders(store)) == 2 + len(rows())


FOREIGN = [
    "{schema}/recording/recording_id=1/notes.txt",
    "{schema}/recording/recording_id=1/mine.npy",
    "{schema}/recording/recording_id=1/waveform_filtered.npy",
    "{schema}/recording/recording_id=1/waveform_x7Kd93Lq.npy",  # DataJoint's own, or anybody's
    "{schema}/recording/recording_id=1/.hidden.dj-npy-tmp",
    "{schema}/recording/recording_id=1/deep/waveform.npy",
    "{schema}/recording/other_id=1/waveform.npy",
    "{schema}/recording/waveform.npy",
    "{schema}/other/recording_id=1/waveform.npy",
    "{schema}_2/recording/recording_id=1/waveform.npy",
    "_hash/{schema}/abcdefghijklmnopqrstuvwxyz",
    "recording/recording_id=1/waveform.npy",
    ".dj-npy-probe",
]


def test_what_is_not_ours_is_never_touched(rows: Any, schema: Any, store: Path) -> None:
    foreign = {name.format(schema=schema.database) for name in FOREIGN}
    for name in foreign:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"somebody's")
    (store / schema.database / "empty").mkdir()
    before = files(store)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 0
    assert files(store) == before
    assert (store / schema.database / "empty").is_dir()
    inside = [name for name in foreign if name.startswith(f"{schema.database}/")]
    assert found.unknown + found.dropped == len(inside)
    # They have the names of a column and of a table that are gone, and no array in them.
    assert found.owners == {
        f"{schema.database}.recording.mine": 1, f"{schema.database}.other.waveform": 1
    }  # fmt: skip
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True)
    assert (found.removed, len(found.odd)) == (0, 2)
    assert files(store) == before
    assert (store / schema.database / "empty").is_dir()


def test_a_file_that_a_row_of_another_schema_refers_to_stays(
    rows: Any, schema: Any, database: Any, store: Path
) -> None:
    other = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:
        copied = other(type("Copied", (dj.Manual,), {"definition": rows.definition}))
        copied.insert(rows.proj("waveform") & "recording_id < 2")
        rows.delete(prompt=False)
        found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
        assert found.removed == 4
        assert files(store) == paths(copied)
        assert dj_npy.verify(copied, checksums=True).counts == {"as inserted": 2}
    finally:
        other.drop(prompt=False)


def test_a_row_of_a_codec_that_is_not_known_here_keeps_its_file(
    rows: Any, schema: Any, store: Path
) -> None:
    """Its table is not declared in this process, and its column's comment means nothing to it."""
    query, quote = rows.connection.query, rows.connection.adapter.quote_identifier
    kind = "jsonb" if rows.connection.adapter.backend == "postgresql" else "json"
    name = f"{quote(schema.database)}.{quote('of_another_lab')}"
    query(f"CREATE TABLE {name} (id int, anything {kind})")
    ref = (rows & "recording_id=1").fetch1("waveform")
    query(f"INSERT INTO {name} VALUES (1, %s)", (json.dumps({"deep": [{"path": ref.path}]}),))
    rows.delete(prompt=False)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 5
    assert files(store) == {ref.path}
    query(f"DROP TABLE {name}")
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=1).removed == 1


def test_one_place_under_two_names(
    rows: Any, schema: Any, database: Any, store: Path, table: Callable[..., Any]
) -> None:
    """A row may call its store by another name, and that may begin above or below ours."""
    other = {"protocol": "file", "location": str(store.parent), "schema_prefix": "store"}
    database.config.stores["other"] = other
    above = table("recording_id : int32\n---\nwaveform : <npy@other>", "Above")
    above.insert1({"recording_id": 1, "waveform": WAVEFORM})
    assert above.fetch1("waveform").path.startswith(f"store/{schema.database}/above/")
    before = files(store)
    assert len(before) == 7
    for name in ("main", "other"):
        found = dj_npy.collect(schema, store=name, older_than=NOW, dry_run=False)
        assert found.removed == 0
        assert found.live == 7
    assert files(store) == before


def test_a_store_with_a_prefix_and_a_partition(
    table: Callable[..., Any], schema: Any, database: Any, store: Path, rows: Any
) -> None:
    settings = database.config.stores["main"]
    database.config.stores["main"] = {
        **settings, "schema_prefix": "deep/raw", "partition_pattern": "{subject}"
    }  # fmt: skip
    scan = table("subject : varchar(8)\nscan : int32\n---\nwaveform : <npy@>", "Scan")
    scan.insert([{"subject": s, "scan": n, "waveform": WAVEFORM} for s in "ab" for n in range(3)])
    (scan & "scan = 1").delete(prompt=False)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 2
    assert files(store / "deep") == {path.removeprefix("deep/") for path in paths(scan)}
    assert paths(rows) <= files(store)  # under another prefix
    assert not [name for name in folders(store / "deep") if name.endswith("scan=1")]


def test_keys_of_every_kind(table: Callable[..., Any], schema: Any, store: Path) -> None:
    many = table(
        "a : varchar(255)\nb : varchar(255)\nc : varchar(255)\n---\nwaveform : <npy@>\nx : <npy@>",
        "Many",
    )
    one = table("---\nwaveform : <npy@>", "Single")
    long = {"a": "é" * 200, "b": "../x", "c": "%s" * 120, "waveform": WAVEFORM, "x": WAVEFORM}
    many.insert([long, {**long, "b": ""}, {**long, "b": "con"}])
    many.insert([long], skip_duplicates=True)  # with tokens
    one.insert1({"waveform": WAVEFORM})
    many.delete(prompt=False)
    one.delete(prompt=False)
    one.insert1({"waveform": WAVEFORM})
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.counts == {"array": 9}
    assert files(store) == paths(one)


def test_a_row_that_moves_while_the_references_are_read_is_seen(
    rows: Any, table: Callable[..., Any], schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a table that is read late to one that is read early, and each time they are read."""
    early = table("recording_id : int32\n---\nwaveform : <npy@>", "Early")
    expected = paths(rows)
    readings = 0
    original = dj_npy._datajoint.catalog.Snapshot.references

    def move(source: Any, target: Any) -> None:
        target.insert(source.proj("waveform") & "recording_id > 3")
        (source & "recording_id > 3").delete(prompt=False)

    def references(self: Any) -> Iterator[str]:
        nonlocal readings
        readings += 1
        if readings > 1:
            move(early, rows)
        for number, path in enumerate(original(self)):
            if number == 0:  # one row has been read, of the table that is read early
                move(rows, early)
            yield path

    early.insert1({"recording_id": -1, "waveform": WAVEFORM})
    monkeypatch.setattr(dj_npy._datajoint.catalog, "_AT_ONCE", 1)
    monkeypatch.setattr(dj_npy._datajoint.catalog.Snapshot, "references", references)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert readings == 2
    assert found.removed == 0
    assert expected <= files(store)
    assert dj_npy.verify(schema, checksums=True).counts == {"as inserted": 7}


def test_a_row_that_comes_while_the_store_is_listed_is_seen(
    rows: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dj_npy._upkeep.inventory.Inventory.list

    def list_(self: Any, *args: Any) -> None:
        original(self, *args)  # the file was there before it was listed, its row came after
        text = value if isinstance(value, str) else json.dumps(value)
        query(f"INSERT INTO {name} (recording_id, waveform) VALUES (77, %s)", (text,))

    rows.insert1({"recording_id": 77, "waveform": WAVEFORM})
    query, name = rows.connection.query, rows.full_table_name
    saved = f"{name[:-1]}_saved{name[-1]}"
    query(f"CREATE TABLE {saved} AS SELECT * FROM {name} WHERE recording_id = 77")
    [(value,)] = query(f"SELECT waveform FROM {saved}").fetchall()
    query(f"DROP TABLE {saved}")
    (rows & "recording_id=77").delete(prompt=False)
    monkeypatch.setattr(dj_npy._upkeep.inventory.Inventory, "list", list_)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 0
    assert (rows & "recording_id=77").fetch1("waveform").verify() == "as inserted"
    assert len(files(store)) == 7


def test_within_a_transaction_nothing_is_collected(
    rows: Any, orphans: set[str], schema: Any, store: Path
) -> None:
    with rows.connection.transaction, pytest.raises(dj_npy.StoreError, match=r"^within a"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert orphans <= files(store)


def test_a_transaction_that_is_open_for_longer_than_the_age_is_an_error(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path
) -> None:
    """Its rows cannot be seen, and their files are old."""
    with dj_npy._datajoint.catalog.snapshot(database.connection):
        time.sleep(0.05)
        with pytest.raises(dj_npy.StoreError, match="is open for"):
            dj_npy.collect(schema, older_than=NOW, dry_run=False)
        dj_npy.collect(schema, older_than=timedelta(hours=1), dry_run=False)
        assert dj_npy.collect(schema, older_than=NOW).counts == {"array": 3}
    assert orphans <= files(store)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 3


@pytest.fixture
def copying(
    rows: Any, table: Callable[..., Any], database: Any, store: Path, tmp_path: Path
) -> Iterator[Any]:
    """A connection whose open transaction has copied all rows; these are deleted, the files old."""
    copied = table(rows.definition, "Copied")
    instance = processes.lab(
        database, {"protocol": "file", "location": str(store)}, tmp_path / "cache"
    ).connected()
    if database.connection.adapter.backend != "postgresql":
        # Otherwise it locks what it copies.
        instance.connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    theirs, ours = map(instance.FreeTable, (copied.full_table_name, rows.full_table_name))
    instance.connection.start_transaction()
    theirs.insert(ours)
    rows.delete_quick()
    for path in files(store):
        os.utime(store / path, (0, 0))
    yield theirs
    instance.connection.close()


def test_rows_that_an_open_transaction_has_copied_are_seen(
    copying: Any, schema: Any, store: Path
) -> None:
    """No moment shows them: the copies are not committed, and the originals are deleted."""
    before = files(store)
    ending = threading.Timer(0.5, copying.connection.commit_transaction)
    ending.start()
    found = dj_npy.collect(schema, dry_run=False)
    ending.join()
    assert found.removed == 0
    assert found.live == 6
    assert files(store) == before
    assert dj_npy.verify(schema, checksums=True).counts == {"as inserted": 6}


def test_a_transaction_that_has_copied_rows_and_does_not_end_is_an_error(
    copying: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dj_npy._upkeep.collect, "_WAIT_FOR_COPIES_S", 0.5)
    before = files(store)
    with pytest.raises(dj_npy.StoreError, match="that has changed something is open for"):
        dj_npy.collect(schema, dry_run=False)
    assert files(store) == before
    copying.connection.cancel_transaction()
    assert dj_npy.collect(schema, dry_run=False, at_most=6).removed == 6


def test_a_transaction_that_has_read_only_is_not_waited_for(
    rows: Any, orphans: set[str], schema: Any, database: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Such as one of `populate` that is still at work."""
    monkeypatch.setattr(dj_npy._upkeep.collect, "_WAIT_FOR_COPIES_S", 0.5)
    instance = processes.lab(
        database, database.config.stores["main"], tmp_path / "cache"
    ).connected()
    instance.connection.start_transaction()
    assert len(instance.FreeTable(rows.full_table_name)) == 3
    found = dj_npy.collect(schema, older_than=timedelta(hours=1), dry_run=False)
    assert found.young == 3
    instance.connection.close()


def test_one_collection_at_a_time(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path
) -> None:
    with dj_npy._datajoint.catalog.snapshot(database.connection) as other:
        assert other.try_lock("collect")
        other.end()
        with pytest.raises(dj_npy.StoreError, match="another collection"):
            dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert orphans <= files(store)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 3
    for _ in range(3):  # the last one has let go of the lock, however slow the server is
        dj_npy.collect(schema, older_than=NOW, dry_run=False)


@pytest.fixture
def server_wide(database: Any) -> Iterator[Callable[[str, str], None]]:
    """Sets a variable of MySQL's for all sessions to come."""
    names = []

    def put(name: str, value: str) -> None:
        database.connection.query(f"SET GLOBAL {name} = {value}")
        names.append(name)

    yield put
    for name in names:
        database.connection.query(f"SET GLOBAL {name} = DEFAULT")


on_mysql = pytest.mark.parametrize("database", ["mariadb", "mysql"], indirect=True)


@on_mysql
def test_a_server_that_cuts_its_answers(
    rows: Any, orphans: set[str], schema: Any, store: Path, server_wide: Any
) -> None:
    server_wide("sql_select_limit", "2")
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 3
    assert paths(rows) == files(store)


@on_mysql
def test_a_value_that_is_longer_than_the_server_hands_out_is_an_error(
    rows: Any, schema: Any, store: Path, database: Any, server_wide: Any
) -> None:
    query, copied = database.connection.query, f"`{schema.database}`.long_ones"
    query(f"CREATE TABLE {copied} (n INT PRIMARY KEY, waveform JSON)")
    query(
        f"INSERT INTO {copied} SELECT 1, JSON_SET(waveform, '$.more', REPEAT('x', 3000000)) "
        f"FROM {rows.full_table_name} WHERE recording_id = 4"
    )
    (rows & "recording_id = 4").delete(prompt=False)
    before = files(store)
    server_wide("max_allowed_packet", "1048576")
    with pytest.raises(dj_npy.StoreError, match=r"could not read what .*long_ones\.waveform"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert files(store) == before


@on_mysql
def test_transactions_are_timed_by_one_clock(rows: Any, database: Any, server_wide: Any) -> None:
    for zone in ("-10:00", "+10:00"):
        server_wide("time_zone", f"'{zone}'")
        with dj_npy._datajoint.catalog.snapshot(database.connection) as other:
            list(other.select(f"SELECT * FROM {rows.full_table_name}"))
            time.sleep(1.1)
            with dj_npy._datajoint.catalog.snapshot(database.connection) as now:
                assert 1 <= (dj_npy._datajoint.sessions.open_for_s(now) or 0) < 60


def test_a_file_that_was_replaced_after_it_was_listed_stays(
    rows: Any, orphans: set[str], schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dj_npy._upkeep.inventory.Inventory.remove
    [one, *_] = sorted(orphans)

    def remove(self: Any, *args: Any) -> None:
        (store / one).unlink()
        rows.insert1({"recording_id": 0, "waveform": WAVEFORM})
        original(self, *args)

    monkeypatch.setattr(dj_npy._upkeep.inventory.Inventory, "remove", remove)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 2
    assert (rows & "recording_id=0").fetch1("waveform").path == one
    assert (rows & "recording_id=0").fetch1("waveform").verify() == "as inserted"


@pytest.mark.parametrize(("later_s", "removed"), [(1.1, True), (-1.1, True), (2.5, False)])
def test_a_file_is_the_one_that_was_listed_if_it_is_as_old_to_two_seconds(
    stored: Callable[..., Any], store: Path, later_s: float, removed: bool
) -> None:
    """For rclone, one object is of 13.004 s when listed, and of 12 s when asked for."""
    ref = stored(WAVEFORM)
    local = dj_npy._stores.local.store.LocalStore("main", str(store))
    [listed] = local.files()
    listed = listed._replace(modified=listed.modified + timedelta(seconds=later_s))
    assert local.remove_listed(listed) is removed
    assert (store / ref.path).exists() is not removed


# Of base tables, MySQL hides what may not be read.
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_error_of_a_query_removes_nothing(
    rows: Any, orphans: set[str], schema: Any, store: Path, reader: Callable[..., Any]
) -> None:
    quote = rows.connection.adapter.quote_identifier
    name = quote(schema.database)
    rows.connection.query(f"CREATE TABLE {name}.{quote('locked')} (id int, x jsonb)")
    connection = reader(
        f"GRANT USAGE ON SCHEMA {name} TO ROLE", f"GRANT SELECT ON {rows.full_table_name} TO ROLE"
    )
    theirs = dj.Schema(schema.database, connection=connection, create_schema=False)
    with pytest.raises(DataJointError, match=r"(?i)permission|access"):
        dj_npy.collect(theirs, older_than=NOW, dry_run=False)
    assert orphans <= files(store)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_rows_that_are_hidden_from_this_account_are_an_error(
    rows: Any, orphans: set[str], schema: Any, store: Path, reader: Callable[..., Any]
) -> None:
    """PostgreSQL's row security leaves them out without a word."""
    connection = reader("GRANT pg_read_all_data TO ROLE")
    rows.connection.query(f"ALTER TABLE {rows.full_table_name} ENABLE ROW LEVEL SECURITY")
    theirs = dj.Schema(schema.database, connection=connection, create_schema=False)
    with pytest.raises(DataJointError, match="row-level security"):
        dj_npy.collect(theirs, older_than=NOW, dry_run=False)
    assert files(store) == orphans | paths(rows)


def test_a_store_that_cannot_be_listed_removes_nothing(
    rows: Any, orphans: set[str], schema: Any, store: Path, stores: dict[str, Any],
    table: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    table("recording_id : int32\n---\nwaveform : <npy@archive>", "Zoo")
    (tmp_path / "archive").rmdir()
    with pytest.raises(dj_npy.StoreError, match="Is the file server mounted"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert orphans <= files(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a file immutable")
def test_what_cannot_be_removed_is_told(
    rows: Any, orphans: set[str], schema: Any, store: Path
) -> None:
    from tests.conftest import run

    [one, *_] = orphans
    run(["chattr", "+i", str(store / one)])
    try:
        found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    finally:
        run(["chattr", "-i", str(store / one)])
    assert found.removed == 2
    assert not found.ok
    assert one in found.failures[0]
    assert f"not removed: could not remove the array at '{one}'" in str(found)


@pytest.mark.parametrize("given", [(), (3,), (WAVEFORM,), ("no_such_schema",)])
def test_what_is_no_schema_is_refused(postgresql: Any, given: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.collect(*given)


def test_a_table_and_an_age_below_zero_are_refused(rows: Any, schema: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.collect(rows)
    with pytest.raises(dj_npy.ArrayInvalidError, match="age"):
        dj_npy.collect(schema, older_than=timedelta(seconds=-1))
    with pytest.raises(dj_npy.ArrayInvalidError, match="age"):
        dj_npy.collect(schema, older_than=3)  # type: ignore[arg-type]


# --- object stores ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "server"),
    [("postgresql", "moto"), ("mariadb", "rclone"), ("mysql", "moto")],
    indirect=["database"],
)
def test_on_s3(
    table: Callable[..., Any], schema: Any, database: Any, server: str, request: Any
) -> None:
    url = request.getfixturevalue(server)
    location = f"collect/{uuid.uuid4().hex}"
    database.config.stores["cloud"] = s3_settings(url, location=location)
    raw = S3Raw(url, location)
    far = table("id : int32\n---\nwaveform : <npy@cloud>", "Far")
    dj_npy.insert(far, [{"id": n, "waveform": np.full(100, n)} for n in range(20)])
    (far & "id < 7").delete(prompt=False)
    entity = f"{schema.database}/far/id=99"
    raw.put(f"{entity}/waveform.npy", b"")
    raw.put(f"{entity}/notes.txt", b"x")
    assert dj_npy.collect(schema, dry_run=False).removed == 0  # all of it is young
    client = s3_client(url)
    key = f"{location}/{entity}/waveform.npy"
    client.create_multipart_upload(Bucket="bucket", Key=key)
    client.create_multipart_upload(Bucket="bucket", Key=f"{location}/{entity}/other.npy")
    found = dj_npy.collect(schema, older_than=NOW)
    assert found.counts == {"array": 7, "reservation": 1, "upload": 1}
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 9, found.failures
    assert raw.keys() == paths(far) | {f"{entity}/notes.txt", ".dj-npy-probe"}
    assert [each["Key"] for each in raw.uploads()] == [f"{location}/{entity}/other.npy"]
    assert dj_npy.verify(far, checksums=True).counts == {"as inserted": 13}


def test_a_bucket_that_is_gone_removes_nothing(
    rows: Any, orphans: set[str], table: Callable[..., Any], schema: Any, database: Any,
    moto: str, store: Path,
) -> None:  # fmt: skip
    database.config.stores["cloud"] = s3_settings(moto, bucket="no-such-bucket")
    table("id : int32\n---\nwaveform : <npy@cloud>", "Far")
    with pytest.raises(dj_npy.StoreError, match="no such bucket"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert orphans <= files(store)


# --- memory, and folders that writers need ---------------------------------------------------


def test_writers_are_not_disturbed_by_the_removal_of_empty_folders(
    rows: Any, schema: Any, store: Path
) -> None:
    local, stop = dj_npy._stores.local.store.LocalStore("main", str(store)), threading.Event()
    folder = f"{schema.database}/recording"

    def prune() -> None:
        while not stop.is_set():
            local.prune(folder, lambda path: "=" in path)

    pruning = threading.Thread(target=prune)
    pruning.start()
    try:
        for n in range(100, 250):
            rows.insert1({"recording_id": n, "waveform": WAVEFORM})
    finally:
        stop.set()
        pruning.join()
    assert dj_npy.verify(rows, checksums=True).counts == {"as inserted": 156}


def test_a_folder_that_another_process_made_anew_is_synced(
    stored: Callable[..., Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    original = dj_npy._stores.local.rename.sync_folder

    def sync_folder(path: str) -> None:
        synced.append(path)
        original(path)

    monkeypatch.setattr("dj_npy._stores.local.store.sync_folder", sync_folder)
    ref = stored(WAVEFORM)
    local = dj_npy._stores.local.store.LocalStore("main", str(store))
    (store / ref.path).unlink()
    local.prune("", lambda path: "=" in path)
    folder = (store / ref.path).parent
    assert not folder.exists()
    folder.mkdir()  # by a process that then dies
    synced.clear()
    stored(WAVEFORM)
    assert str(folder.parent) in synced


def test_what_a_link_leads_to_stays(rows: Any, schema: Any, store: Path) -> None:
    """Tools that look for equal files leave one of them, and links to it or to each other."""
    path = {row["recording_id"]: store / row["waveform"].path for row in rows.to_dicts()}
    for number in (1, 2):
        path[number].unlink()
        path[number].symlink_to(os.path.relpath(path[number - 1], path[number].parent))
    (rows & "recording_id < 2 OR recording_id = 5").delete(prompt=False)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 1
    assert path[2].exists()
    rows.delete(prompt=False)
    dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9)
    assert not files(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_is_mounted_in_two_places_stays(
    rows: Any, orphans: set[str], table: Callable[..., Any], schema: Any, store: Path
) -> None:
    """Without a row of the other table, its folder would be one of orphans only."""
    table(rows.definition, "Other")
    twice = store / schema.database / "other"
    twice.mkdir()
    mounted = subprocess.run(["mount", "--bind", twice.with_name("recording"), twice], check=False)
    if mounted.returncode:
        pytest.skip("mounts are not allowed here")
    try:
        dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9)
    finally:
        subprocess.run(["umount", twice], check=True)
    assert files(store) == paths(rows)
