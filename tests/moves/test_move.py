"""`move`: at any moment each row has its file, and the right one."""

import errno
import json
import os
import threading
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
import dj_npy._moves.move
from dj_npy._cli.main import main
from dj_npy._datajoint.catalog import another_session, snapshot
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable
from tests.support.faults import Fault, Proxy
from tests.support.references import forget_stores
from tests.support.servers import FolderRaw, S3Raw, files, s3_settings

NOW = timedelta(0)
ROWS = 6


def array(n: int) -> Any:
    return np.arange(100.0).reshape(10, 10) + n


@pytest.fixture
def rows(recording: Any) -> Any:
    """Rows in the store `main`."""
    recording.insert([{"recording_id": n, "waveform": array(n)} for n in range(ROWS)])
    return recording()


@pytest.fixture
def archive(tmp_path: Path, stores: Any) -> Path:
    """The folder of the store `archive`."""
    return tmp_path / "archive"


def check(table: Any, *stores: str) -> None:
    """Every row is readable, as inserted, and in one of these stores."""
    found = table.to_dicts()
    assert len(found) == ROWS
    for row in found:
        np.testing.assert_array_equal(row["waveform"].load(), array(row["recording_id"]))
        assert row["waveform"].store in stores
    assert dj_npy.verify(table, checksums=True).counts == {"as inserted": ROWS}


def meddle(monkeypatch: pytest.MonkeyPatch, action: Callable[[Any], None]) -> None:
    """Do something once, when a file has been copied, and before its row is changed."""
    settle = dj_npy._moves.move._settle
    done: list[str] = []

    def meddling(stored: Any, *others: Any) -> None:
        if not done:
            done.append(stored.text)
            action(stored)
        settle(stored, *others)

    monkeypatch.setattr(dj_npy._moves.move, "_settle", meddling)


@pytest.fixture
def query(recording: Any) -> Iterator[Callable[..., Any]]:
    """Sends SQL in another session."""
    with another_session(recording.connection) as own:
        yield own.query


def test_arrays_go_to_another_store(rows: Any, store: Path, archive: Path) -> None:
    moved = dj_npy.move(rows, "waveform", "archive", progress=True)
    assert (moved.rows, moved.files, moved.nbytes) == (ROWS, ROWS, ROWS * 928)
    assert moved.ok
    check(rows, "archive")
    assert len(files(archive)) == ROWS
    assert len(files(store)) == ROWS  # left to readers and `collect`
    assert "6 rows now refer to store 'archive'" in str(moved)
    assert json.loads(moved.to_json())["rows"] == ROWS


def test_references_fetched_before_remain_valid(rows: Any) -> None:
    before = rows.to_arrays("waveform", order_by="recording_id")
    dj_npy.move(rows, "waveform", "archive")
    for n, ref in enumerate(before):
        np.testing.assert_array_equal(ref.load(), array(n))


def test_the_old_files_go_by_collect_and_the_new_ones_stay(
    rows: Any, schema: Any, store: Path
) -> None:
    dj_npy.move(rows, "waveform", "archive")
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=ROWS)
    assert found.removed == ROWS
    assert files(store) == set()
    check(rows, "archive")


def test_an_older_file_of_that_name_goes_by_collect_too(
    rows: Any, schema: Any, archive: Path, store: Path
) -> None:
    for name in ("archive", "main", "archive"):
        dj_npy.move(rows, "waveform", name)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=3 * ROWS)
    assert found.removed == 3 * ROWS
    assert (len(files(archive)), len(files(store))) == (ROWS, 0)
    check(rows, "archive")


def test_a_second_call_has_nothing_to_do(rows: Any, archive: Path) -> None:
    dj_npy.move(rows, "waveform", "archive")
    before = files(archive)
    moved = dj_npy.move(rows, "waveform", "archive")
    assert (moved.rows, moved.already) == (0, ROWS)
    assert files(archive) == before


def test_there_and_back(rows: Any, schema: Any) -> None:
    for name in ("archive", "main", "archive", "main"):
        assert dj_npy.move(rows, "waveform", name, remove=True).removed == ROWS
        check(rows, name)


def test_only_restricted_rows_are_moved(rows: Any) -> None:
    assert dj_npy.move(rows & "recording_id < 2", "waveform", "archive").rows == 2
    check(rows, "archive", "main")
    assert {ref.store for ref in (rows & "recording_id < 2").to_arrays("waveform")} == {"archive"}


def test_null_is_no_array(table: MakeTable) -> None:
    made = table("id : int32\n---\nwaveform = null : <npy@>")
    made.insert([{"id": 1, "waveform": None}, {"id": 2, "waveform": array(2)}])
    assert dj_npy.move(made, "waveform", "archive").rows == 1


def test_keys_of_all_kinds_are_found(table: MakeTable, database: Any) -> None:
    kinds = {
        "a": ("varchar(20)", "M/1 ü%"),
        "b": ("date", "2024-01-02"),
        "c": ("datetime", "2024-01-02 03:04:05"),
        "d": ("decimal(6,2)", "3.50"),
        "e": ("float32", 0.1),
        "f": ("enum('x','y')", "y"),
        "g": ("bool", True),
    }
    if database.connection.adapter.backend == "mysql":  # PostgreSQL 18 refuses a uuid: DataJoint's
        kinds["h"] = ("uuid", uuid.uuid4())
    lines = [f"{name} : {kind}" for name, (kind, _) in kinds.items()]
    made = table("\n".join([*lines, "---", "waveform : <npy@>"]))
    made.insert1({**{name: value for name, (_, value) in kinds.items()}, "waveform": array(1)})
    plain = made.fetch1("waveform").path
    assert dj_npy.move(made, "waveform", "archive").rows == 1
    ref = made.fetch1("waveform")
    assert ref.path.rpartition("/")[0] == plain.rpartition("/")[0]
    np.testing.assert_array_equal(ref.load(), array(1))
    assert dj_npy.move(made, "waveform", "archive").already == 1


def test_a_column_that_names_a_store_is_read_deleted_and_collected(
    table: MakeTable, schema: Any, store: Path, archive: Path
) -> None:
    made = table("recording_id : int32\n---\nwaveform : <npy@main>")()
    made.insert([{"recording_id": n, "waveform": array(n)} for n in range(ROWS)])
    dj_npy.move(made, "waveform", "archive", remove=True)
    check(made, "archive")
    assert dj_npy.usage(made).stores == {"archive": ROWS * 928}
    made.insert1({"recording_id": 99, "waveform": array(99)})  # where the definition says
    assert (made & "recording_id=99").fetch1("waveform").store == "main"
    (made & "recording_id=99").delete(prompt=False)
    (made & "recording_id < 2").delete(prompt=False)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=3)
    assert found.stores == ["main", "archive"]
    assert found.removed == 3
    assert len(files(archive)) == ROWS - 2
    assert files(store) == set()


def test_rows_that_share_a_file_share_the_new_one(
    rows: Any, table: MakeTable, query: Callable[..., Any], archive: Path
) -> None:
    quote = rows.connection.adapter.quote_identifier
    name = rows.full_table_name
    query(
        f"INSERT INTO {name} ({quote('recording_id')}, {quote('waveform')}) "
        f"SELECT {quote('recording_id')} + 100, {quote('waveform')} FROM {name}"
    )
    moved = dj_npy.move(rows & "recording_id < 102", "waveform", "archive", remove=True)
    assert (moved.rows, moved.files) == (ROWS + 2, ROWS)
    assert (moved.removed, moved.shared) == (2, ROWS - 2)
    assert len(files(archive)) == ROWS
    assert dj_npy.verify(rows, checksums=True).counts == {"as inserted": 2 * ROWS}


def test_a_file_to_which_another_schema_refers_is_kept(
    rows: Any, database: Any, schema: Any, query: Callable[..., Any], store: Path
) -> None:
    other = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:
        definition = "id : int32\n---\ncopied : json"
        copies = other(type("Copies", (type(rows).__mro__[1],), {"definition": definition}))
        text = json.dumps({"of": (rows & "recording_id=1").fetch1("waveform").path})
        copies.insert1({"id": 1, "copied": json.loads(text)})
        moved = dj_npy.move(rows, "waveform", "archive", remove=True)
        assert (moved.removed, moved.shared) == (ROWS - 1, 1)
        assert len(files(store)) == 1
    finally:
        other.drop(prompt=False)


@pytest.mark.parametrize("damage", ["missing", "cut short", "other bytes", "other array"])
def test_a_damaged_file_is_told_and_the_others_go_on(rows: Any, store: Path, damage: str) -> None:
    path = store / (rows & "recording_id=3").fetch1("waveform").path
    contents = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = {
            "cut short": contents[:-1],
            "other bytes": contents[:-1] + b"\1",
            "other array": contents.replace(b"<f8", b"<i8"),
        }
        path.write_bytes(changed[damage])
    before = (rows & "recording_id=3").fetch1("waveform").path
    moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert (moved.rows, moved.removed, moved.ok) == (ROWS - 1, ROWS - 1, False)
    assert moved.counts == {damage: 1}
    assert moved.findings[0].key == {"recording_id": 3}
    assert f"{damage}: {rows.database}.recording (recording_id=3) waveform: " in str(moved)
    ref = (rows & "recording_id=3").fetch1("waveform")
    assert (ref.store, ref.path) == ("main", before)


def test_an_array_changed_through_a_map_is_told(rows: Any) -> None:
    (rows & "recording_id=3").fetch1("waveform").load("r+")[0, 0] = 99
    moved = dj_npy.move(rows, "waveform", "archive")
    assert moved.counts == {"changed since insert": 1}
    assert "insert ref.load()" in moved.findings[0].message


def test_an_invalid_row_is_told(rows: Any, query: Callable[..., Any]) -> None:
    quote = rows.connection.adapter.quote_identifier
    query(
        f"UPDATE {rows.full_table_name} SET {quote('waveform')} = '[1]' "
        f"WHERE {quote('recording_id')} = 2"
    )
    moved = dj_npy.move(rows, "waveform", "archive")
    assert (moved.rows, moved.counts) == (ROWS - 1, {"invalid row": 1})


def test_a_row_that_is_updated_meanwhile_is_left_alone(
    rows: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(stored: Any) -> None:
        rows.update1({"recording_id": stored.keys[0][0], "waveform": array(50)})

    meddle(monkeypatch, update)
    moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert (moved.rows, moved.changed, moved.removed) == (ROWS - 1, 1, ROWS - 1)
    assert len(files(archive)) == ROWS - 1  # the copy for nothing is gone
    assert dj_npy.verify(rows, checksums=True).counts == {"as inserted": ROWS}
    assert dj_npy.move(rows, "waveform", "archive").rows == 1


def test_a_row_that_is_deleted_meanwhile_does_not_come_back(
    rows: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddle(
        monkeypatch,
        lambda stored: (rows & {"recording_id": stored.keys[0][0]}).delete(prompt=False),
    )
    moved = dj_npy.move(rows, "waveform", "archive")
    assert (moved.rows, moved.changed) == (ROWS - 1, 1)
    assert len(rows) == ROWS - 1
    assert len(files(archive)) == ROWS - 1


def test_a_file_that_goes_with_its_row_meanwhile_is_no_damage(
    rows: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = dj_npy._moves.move._Copier.copy
    lock = threading.Lock()
    done: list[str] = []

    def copying(self: Any, stored: Any) -> Any:
        with lock:
            if not done:
                done.append(stored.row.path)
                os.unlink(store / stored.row.path)
        return copy(self, stored)

    monkeypatch.setattr(dj_npy._moves.move._Copier, "copy", copying)
    meddle(
        monkeypatch,
        lambda stored: (rows & {"recording_id": stored.keys[0][0]}).delete(prompt=False),
    )
    moved = dj_npy.move(rows, "waveform", "archive")
    assert (moved.rows, moved.changed, moved.ok) == (ROWS - 1, 1, True)


def test_collect_meanwhile_spares_what_is_young(
    rows: Any, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(_: Any) -> None:
        dj_npy.collect(schema, dry_run=False)
        dj_npy.collect(schema, store="archive", dry_run=False)

    meddle(monkeypatch, collect)
    assert dj_npy.move(rows, "waveform", "archive").rows == ROWS
    check(rows, "archive")


def test_a_file_of_that_name_is_not_overwritten(rows: Any, archive: Path) -> None:
    made = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert made.ok
    in_main = {ref.path.rpartition("/")[0] + "/waveform.npy" for ref in rows.to_arrays("waveform")}
    raw = FolderRaw(archive.parent / "store")
    for path in in_main:
        raw.put(path, b"somebody else's")
    assert dj_npy.move(rows, "waveform", "main").rows == ROWS
    assert {raw.get(path) for path in in_main} == {b"somebody else's"}
    check(rows, "main")


def test_an_old_file_whose_row_is_being_copied_is_waited_for(
    rows: Any, store: Path, query: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No snapshot shows the copy before it is committed, nor the row that it was made of after."""
    [old] = (rows & "recording_id=1").to_arrays("waveform")
    copied = rows.full_table_name.replace("recording", "copied")
    if rows.connection.adapter.backend == "postgresql":
        query(f"CREATE TABLE {copied} (LIKE {rows.full_table_name})")
    else:
        query(f"CREATE TABLE {copied} LIKE {rows.full_table_name}")
        query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")  # locks no row
    query("START TRANSACTION")
    query(f"INSERT INTO {copied} SELECT * FROM {rows.full_table_name} WHERE recording_id = 1")
    remove = dj_npy._moves.move.remove_old
    ends = threading.Timer(0.5, query, ["COMMIT"])

    def begins(*given: Any) -> None:
        ends.start()
        remove(*given)

    monkeypatch.setattr(dj_npy._moves.move, "remove_old", begins)
    moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    ends.join()
    assert (moved.removed, moved.shared, moved.failures) == (ROWS - 1, 1, [])
    assert files(store) == {old.path}
    query(f"DROP TABLE {copied}")


def test_while_another_collection_is_at_work_no_old_file_is_removed(rows: Any, store: Path) -> None:
    before = files(store)
    with snapshot(rows.connection) as another:
        assert another.try_lock("collect")
        moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert not moved.ok
    assert "another collection is at work" in moved.failures[0]
    assert (moved.rows, files(store)) == (ROWS, before)
    check(rows, "archive")


def test_another_layout_within_a_store(rows: Any, stores: Any, store: Path) -> None:
    stores["main"]["schema_prefix"] = "arrays"
    rows.insert1({"recording_id": 99, "waveform": array(99)})
    forget_stores()
    moved = dj_npy.move(rows, "waveform", "main", remove=True)
    assert (moved.rows, moved.already) == (ROWS, 1)
    paths = {ref.path for ref in rows.to_arrays("waveform")}
    assert all(path.startswith("arrays/") for path in paths)
    assert files(store) == paths
    assert dj_npy.verify(rows, checksums=True).counts == {"as inserted": ROWS + 1}


def test_a_row_of_the_built_in_codec_gets_a_checksum(rows: Any, query: Callable[..., Any]) -> None:
    quote = rows.connection.adapter.quote_identifier
    ref = (rows & "recording_id=1").fetch1("waveform")
    old = {"path": ref.path, "store": "main", "dtype": "float64", "shape": [10, 10]}
    query(
        f"UPDATE {rows.full_table_name} SET {quote('waveform')} = %s "
        f"WHERE {quote('recording_id')} = 1",
        (json.dumps(old),),
    )
    assert dj_npy.move(rows, "waveform", "archive").rows == ROWS
    check(rows, "archive")


def test_a_full_target_stops_it_and_it_goes_on_when_called_again(
    rows: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, lock, left = LocalStore._create, threading.Lock(), [3]  # the marker, and two arrays

    def full(self: Any, paths: Any, pieces: Any, nbytes: int) -> str:
        with lock:
            left[0] -= 1
            room = self.name != "archive" or left[0] >= 0
        if not room:
            raise self.translate_error(OSError(errno.ENOSPC, "No space left"), next(paths), "write")
        return create(self, paths, pieces, nbytes)

    monkeypatch.setattr(LocalStore, "_create", full)
    with pytest.raises(dj_npy.StoreError, match=r"disk is full.*2 of 6 rows were moved"):
        dj_npy.move(rows, "waveform", "archive")
    check(rows, "main", "archive")
    left[0] = 100
    assert dj_npy.move(rows, "waveform", "archive").rows == ROWS - 2
    check(rows, "archive")
    assert len(files(archive)) == ROWS


def test_a_source_that_cannot_be_read_on_is_told(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, bad = LocalStore._pieces, (rows & "recording_id=4").fetch1("waveform").path

    def failing(self: Any, path: str) -> Any:
        for piece in pieces(self, path):
            yield piece[:100]
            if path == bad:
                raise self.translate_error(OSError(errno.EIO, "I/O error"), path, "read")
            yield piece[100:]

    monkeypatch.setattr(LocalStore, "_pieces", failing)
    moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert (moved.rows, moved.counts) == (ROWS - 1, {"unreadable": 1})
    assert moved.findings[0].key == {"recording_id": 4}


def test_the_target_is_not_the_one_that_rows_mean(rows: Any, archive: Path, store: Path) -> None:
    dj_npy.move(rows & "recording_id=1", "waveform", "archive")
    (archive / ".dj-npy-store").write_text(json.dumps({"store_id": [uuid.uuid4().hex]}))
    forget_stores()
    with pytest.raises(dj_npy.StoreError, match="was written to store"):
        dj_npy.move(rows, "waveform", "archive")
    assert len(files(archive)) == 1
    (archive / ".dj-npy-store").write_text("of somebody else")
    forget_stores()
    with pytest.raises(dj_npy.StoreError, match="does not say which store this is"):
        dj_npy.move(rows, "waveform", "archive")


def test_within_a_transaction_it_is_refused(rows: Any) -> None:
    with rows.connection.transaction, pytest.raises(dj_npy.StoreError, match="transaction"):
        dj_npy.move(rows, "waveform", "archive")


def test_wrong_arguments_are_refused(rows: Any) -> None:
    for query, attribute, store, said in (
        ("lab", "waveform", "archive", "takes a table"),
        (rows * rows.proj(), "waveform", "archive", "takes a table|project"),
        (rows.proj(wave="waveform"), "wave", "archive", "no <npy@> attribute 'wave'"),
        (rows.proj(), "waveform", "archive", "do not project"),
        (rows, "recording_id", "archive", "it has: waveform"),
        (rows, "waveform", None, "name of a store, not None"),
    ):
        with pytest.raises(dj_npy.ArrayInvalidError, match=said):
            dj_npy.move(query, attribute, store)  # type: ignore[arg-type]
    with pytest.raises(dj_npy.StoreError, match="no store is called 'nowhere'"):
        dj_npy.move(rows, "waveform", "nowhere")
    check(rows, "main")


@pytest.mark.parametrize("kind", ["moto", "rclone", "seaweedfs"])
def test_to_s3_and_back(
    rows: Any, kind: str, request: pytest.FixtureRequest, database: Any, location: str
) -> None:
    url = request.getfixturevalue(kind)
    database.config.stores["archive"] = s3_settings(url, location=location)
    raw = S3Raw(url, location)
    assert dj_npy.move(rows, "waveform", "archive", remove=True).removed == ROWS
    check(rows, "archive")
    assert {ref.path for ref in rows.to_arrays("waveform")} <= raw.keys()
    assert dj_npy.move(rows, "waveform", "main", remove=True).removed == ROWS
    assert not [key for key in raw.keys() if key.endswith(".npy")]  # noqa: SIM118
    check(rows, "main")


def test_within_s3_the_server_copies(
    rows: Any, moto: str, database: Any, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.config.stores["archive"] = s3_settings(moto, location=location)
    dj_npy.move(rows, "waveform", "archive")
    database.config.stores["archive"] = {
        **database.config.stores["archive"],
        "schema_prefix": "arrays",
    }
    forget_stores()

    def streamed(*_: Any) -> Any:
        raise AssertionError("streamed")

    monkeypatch.setattr(dj_npy._moves.move, "create_file", streamed)
    assert dj_npy.move(rows, "waveform", "archive", remove=True).removed == ROWS
    assert all(ref.path.startswith("arrays/") for ref in rows.to_arrays("waveform"))
    check(rows, "archive")
    raw = S3Raw(moto, location)
    damaged = (rows & "recording_id=3").fetch1("waveform").path
    raw.put(damaged, raw.get(damaged)[:-1] + b"\1")
    database.config.stores["archive"]["schema_prefix"] = "moved"
    forget_stores()
    moved = dj_npy.move(rows, "waveform", "archive", remove=True)
    assert (moved.removed, moved.counts) == (ROWS - 1, {"other bytes": 1})


def test_a_source_that_is_read_only(
    rows: Any, seaweedfs: str, database: Any, location: str
) -> None:
    stores = database.config.stores
    stores["archive"] = s3_settings(seaweedfs, location=location)
    assert dj_npy.move(rows, "waveform", "archive", remove=True).ok
    stores["archive"] = {**stores["archive"], "access_key": "reader"}
    forget_stores()
    moved = dj_npy.move(rows, "waveform", "main", remove=True)
    assert (moved.rows, moved.removed, moved.ok) == (ROWS, 0, False)
    assert len(moved.failures) == ROWS
    assert "not removed: could not remove" in str(moved)
    check(rows, "main")
    with pytest.raises(dj_npy.StoreError, match="0 of 6 rows were moved"):
        dj_npy.move(rows, "waveform", "archive")
    check(rows, "main")


def test_two_at_once_leave_one_file_each(
    rows: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = []
    meddle(monkeypatch, lambda _: others.append(dj_npy.move(rows, "waveform", "archive")))
    moved = dj_npy.move(rows, "waveform", "archive")
    assert (moved.rows, moved.changed, others[0].rows) == (0, ROWS, ROWS)
    assert len(files(archive)) == ROWS
    check(rows, "archive")


def test_cut_connections_are_survived(
    rows: Any, database: Any, s3: dict[str, Any], proxy: Proxy, impatient: None
) -> None:
    database.config.stores["archive"] = s3
    proxy.times(3, Fault(reset=True), "PUT")
    assert dj_npy.move(rows, "waveform", "archive").rows == ROWS
    check(rows, "archive")
    proxy.times(3, Fault(reset=True), "GET")
    assert dj_npy.move(rows, "waveform", "main").rows == ROWS
    check(rows, "main")


def test_the_definition_can_be_changed_after_it(table: MakeTable, schema: Any) -> None:
    made = table("recording_id : int32\n---\nwaveform : <npy@main>")
    made.insert([{"recording_id": n, "waveform": array(n)} for n in range(ROWS)])
    dj_npy.move(made, "waveform", "archive")
    made.definition = "recording_id : int32\n---\nwaveform : <npy@archive>"
    if schema.connection.adapter.backend == "postgresql":  # whose comments `alter` leaves alone
        schema.connection.query(
            f"COMMENT ON COLUMN {made.full_table_name}.waveform IS ':<npy@archive>:'"
        )
        made = dj.FreeTable(schema.connection, made.full_table_name)
    else:
        made().alter(prompt=False)
    check(made & {}, "archive")
    made.insert1({"recording_id": 99, "waveform": array(99)})
    assert (made & "recording_id=99").fetch1("waveform").store == "archive"


def test_an_account_that_sees_little_moves_and_leaves_the_old_files(
    few_grants: Any, tmp_path: Path
) -> None:
    connection = few_grants.connection
    few_grants.config.stores["archive"] = {"protocol": "file", "location": str(tmp_path / "cold")}
    (tmp_path / "cold").mkdir()
    schema = few_grants.Schema(f"{connection.conn_info['user']}_lab")
    made = schema(type("Recording", (dj.Manual,), {"definition": "id : int32\n---\na : <npy@>"}))
    made.insert1({"id": 1, "a": array(1)})
    with pytest.raises(dj_npy.StoreError, match="does not see all that may refer to a file"):
        dj_npy.move(made, "a", "archive", remove=True)
    assert made.fetch1("a").store == "main"
    assert dj_npy.move(made, "a", "archive").rows == 1
    np.testing.assert_array_equal(made.fetch1("a").load(), array(1))


def test_an_account_that_must_not_update_copies_nothing(
    postgresql: Any, archive: Path, rows: Any, reader: Callable[..., Any]
) -> None:
    if rows.connection is not postgresql.connection:
        pytest.skip("roles of PostgreSQL's")
    schema = f'"{rows.database}"'
    connection = reader(
        f"GRANT USAGE ON SCHEMA {schema} TO ROLE",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO ROLE",
    )
    connection._config.stores = rows.connection._config.stores
    with pytest.raises(DataJointError, match="permission denied"):
        dj_npy.move(dj.FreeTable(connection, rows.full_table_name), "waveform", "archive")
    assert files(archive) == set()


def test_the_command(
    rows: Any,
    schema: Any,
    archive: Path,
    configured: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = f"{schema.database}.recording"
    assert main(["move", table, "waveform", "archive", "--where", "recording_id < 2"]) == 0
    assert "2 rows now refer to store 'archive'" in capsys.readouterr().out
    (archive.parent / "store" / (rows & "recording_id=3").fetch1("waveform").path).unlink()
    assert main(["move", table, "waveform", "archive", "--remove", "--progress", "--json"]) == 1
    loaded = json.loads(capsys.readouterr().out)
    assert (loaded["rows"], loaded["already"], loaded["removed"]) == (ROWS - 3, 2, ROWS - 3)
    assert loaded["findings"][0]["key"] == {"recording_id": 3}
    assert main(["move", table, "wave", "archive"]) == 1
    assert "no <npy@> attribute 'wave'; it has: waveform" in capsys.readouterr().err
    assert main(["move", "lab", "waveform", "archive"]) == 2
    assert main(["move", table, "waveform", "archive", "--where", "nonsense ="]) == 1
