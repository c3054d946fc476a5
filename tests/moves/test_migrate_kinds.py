"""What `migrate` takes: every type of column with arrays, of every version, and what it refuses."""

import json
import uuid
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.blob import pack

import dj_npy
from dj_npy import ArrayInvalidError, NpyRef, StoreError
from dj_npy._cli.main import main
from dj_npy._datajoint.catalog import another_session
from tests.conftest import MakeTable
from tests.moves.test_migrate import again, check, columns, fill, same
from tests.support import blobs as old_blobs
from tests.support.servers import files

A = [np.arange(12.0).reshape(3, 4), np.arange(5, dtype=np.uint8), np.zeros((2, 0))]
STEPS: Any = ("survey", "copy", "switch", "finish")


@pytest.fixture
def no_mariadb(database: Any) -> None:
    [version] = database.connection.query("SELECT version()").fetchone()
    if "mariadb" in version.lower():
        pytest.skip("DataJoint 2.3.5 inserts no <blob@> and <attach@> into MariaDB")


def all_steps(table: Any, **options: Any) -> None:
    for step in STEPS:
        found = dj_npy.migrate(again(table), "waveform", step=step, **options)
        assert found.ok, str(found)


def raw_insert(table: Any, values: list[Any]) -> None:
    """Insert values as another program would."""
    with another_session(table.connection) as own:
        for number, value in enumerate(values):
            own.query(
                f"INSERT INTO {table.full_table_name} (recording_id, waveform) VALUES (%s, %s)",
                (number, value),
            )


def blob_type(database: Any) -> str:
    """The type of DataJoint 0.14 for blobs, and on PostgreSQL that of DataJoint 2 for bytes."""
    return "longblob" if database.connection.adapter.backend == "mysql" else "bytes"


@pytest.mark.parametrize("version", ["0.13", "0.14"])
def test_blobs_of_older_versions(table: MakeTable, database: Any, version: str) -> None:
    found = old_blobs.written()
    [blobs] = [found[each] for each in found if each.startswith(version)]
    arrays = old_blobs.arrays()
    recording = table(f"recording_id : int32\n---\nwaveform : {blob_type(database)}")()
    raw_insert(recording, [blobs[name] for name in arrays])
    all_steps(recording)
    check(again(recording), list(arrays.values()))
    assert all(isinstance(row["waveform"], NpyRef) for row in again(recording))


@pytest.mark.parametrize("version", ["0.13", "0.14"])
def test_what_is_no_array_is_listed_by_key_and_nothing_is_switched(
    table: MakeTable, database: Any, version: str, store: Path
) -> None:
    found = old_blobs.written()
    [blobs] = [found[each] for each in found if each.startswith(version)]
    recording = table(f"recording_id : int32\n---\nwaveform : {blob_type(database)}")()
    others = old_blobs.others()
    values = [pack(A[0]), *(blobs[name] for name in others), b"RIFF...", pack(A[0])[:-4]]
    raw_insert(recording, values)
    survey = dj_npy.migrate(recording, "waveform")
    assert {each.key["recording_id"] for each in survey.findings} == {1, 2, 3, 4, 5, 6}
    assert columns(recording) == ["recording_id", "waveform"]
    assert not files(store)
    for step in STEPS[1:3]:
        done = dj_npy.migrate(recording, "waveform", step=step)
        assert not done.ok
        assert done.state == "copying"
        wrong = {each.key["recording_id"]: each.what for each in done.findings}
        assert wrong == {**dict.fromkeys(range(1, 7), "no array"), 7: "unreadable"}
        assert "a dict" in done.findings[0].message or "dict" in done.findings[0].message
        assert done.to_do == 7
    assert dj_npy.migrate(recording, "waveform", step="undo").ok
    assert columns(recording) == ["recording_id", "waveform"]
    (recording & "recording_id in (1, 2, 3, 5, 6, 7)").delete(prompt=False)
    refused = dj_npy.migrate(recording, "waveform", step="switch")
    assert "scalars=True" in refused.findings[0].message
    assert dj_npy.migrate(recording, "waveform", step="switch", scalars=True).ok
    same((again(recording) & "recording_id = 4").fetch1("waveform"), np.array(2.5))


@pytest.mark.parametrize("spec", ["<blob@>", "<blob@archive>"])
def test_blobs_in_a_store(table: MakeTable, spec: str, no_mariadb: None) -> None:
    recording = fill(table(f"recording_id : int32\n---\nwaveform : {spec}"), A)
    assert dj_npy.migrate(recording, "waveform", step="switch").ok
    check(again(recording), A)
    again(recording).insert1({"recording_id": 3, "waveform": np.ones(7)})
    assert dj_npy.migrate(again(recording), "waveform", step="undo").ok
    check(again(recording), [*A, np.ones(7)])
    assert again(recording).heading["waveform"].type == spec
    all_steps(recording, store="archive")
    check(again(recording), [*A, np.ones(7)])
    assert {row["waveform"].store for row in again(recording)} == {"archive"}


@pytest.mark.parametrize("spec", ["<attach>", "<attach@>"])
def test_attached_files(table: MakeTable, spec: str, tmp_path: Path, request: Any) -> None:
    if spec == "<attach@>":
        request.getfixturevalue("no_mariadb")
    recording = table(f"recording_id : int32\n---\nwaveform : {spec}")()
    for number, array in enumerate(A):
        np.save(tmp_path / f"{number}.npy", array)
        recording.insert1({"recording_id": number, "waveform": tmp_path / f"{number}.npy"})
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0")
    recording.insert1({"recording_id": 3, "waveform": tmp_path / "x.mat"})
    for step in STEPS[::2]:
        found = dj_npy.migrate(recording, "waveform", step=step)
        [finding] = found.findings
        assert finding.key == {"recording_id": 3}
        assert "x.mat" in finding.message
    (recording & "recording_id = 3").delete(prompt=False)
    assert dj_npy.migrate(recording, "waveform", step="switch").ok
    check(again(recording), A)
    again(recording).insert1({"recording_id": 3, "waveform": np.ones(7)})
    undone = dj_npy.migrate(again(recording), "waveform", step="undo")
    assert [each.key for each in undone.findings] == [{"recording_id": 3}]
    assert "cannot be made" in undone.findings[0].message
    assert undone.state == "switched"
    check(again(recording), [*A, np.ones(7)])
    (again(recording) & "recording_id = 3").delete(prompt=False)
    assert dj_npy.migrate(again(recording), "waveform", step="undo").ok
    assert again(recording).heading["waveform"].type == spec


def test_files_that_are_named(table: MakeTable, store: Path) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <filepath@main>")()
    for number, array in enumerate(A):
        np.save(store / f"{number}.npy", array)
        recording.insert1({"recording_id": number, "waveform": f"{number}.npy"})
    (store / "x.bin").write_bytes(b"text")
    recording.insert1({"recording_id": 3, "waveform": "x.bin"})
    (store / "1.npy").rename(store / "away")
    for step in STEPS[::2]:
        found = dj_npy.migrate(recording, "waveform", step=step)
        assert {each.key["recording_id"] for each in found.findings} == {1, 3}
    (store / "away").rename(store / "1.npy")
    (recording & "recording_id = 3").delete(prompt=False)
    all_steps(recording)
    check(again(recording), A)
    assert dj_npy.verify(again(recording), checksums=True).counts == {"as inserted": 3}
    assert (store / "0.npy").exists()  # not ours


def test_rows_of_the_built_in_codec_get_files_of_ours(recording: Any, store: Path) -> None:
    fill(recording, A)
    rows = []
    for row in recording.to_dicts():
        described = row["waveform"]._raw
        rows.append({name: described[name] for name in ("path", "store", "dtype", "shape")})
    with another_session(recording.connection) as own:
        for number, row in enumerate(rows):
            own.query(
                f"UPDATE {recording.full_table_name} SET waveform = %s WHERE recording_id = %s",
                (json.dumps(row), number),
            )
    all_steps(recording, store="archive")
    check(again(recording), A)
    assert dj_npy.verify(again(recording), checksums=True).counts == {"as inserted": 3}


def test_null_stays_null(table: MakeTable) -> None:
    arrays = [A[0], None, A[1]]
    definition = "recording_id : int32\n---\nwaveform=null : <blob>"
    recording = fill(table(definition), arrays)
    assert dj_npy.migrate(recording, "waveform", step="copy").ok
    recording.update1({"recording_id": 0, "waveform": None})
    recording.update1({"recording_id": 1, "waveform": A[2]})
    arrays = [None, A[2], A[1]]
    assert dj_npy.migrate(recording, "waveform", step="switch").ok
    check(again(recording), arrays)
    again(recording).update1({"recording_id": 2, "waveform": None})
    assert dj_npy.migrate(again(recording), "waveform", step="undo").ok
    check(again(recording), [None, A[2], None])
    all_steps(recording)
    check(again(recording), [None, A[2], None])
    assert again(recording).heading["waveform"].nullable


def test_several_attributes_and_a_key_of_many_types(table: MakeTable, database: Any) -> None:
    is_mysql = database.connection.adapter.backend == "mysql"
    id_type = "uuid" if is_mysql else "int64"  # DataJoint 2.3.5 inserts no UUID into PostgreSQL
    recording = table(
        f"subject : varchar(20)\nstart : datetime(6)\nday : date\nid : {id_type}\nx : float32\n"
        "y : float64\nprice : decimal(6,2)\nkind : enum('a', 'b')\n"
        "---\nwaveform : <blob>\nnotes='' : varchar(100)\nmask : <blob>  # where"
    )()
    keys = [
        {
            "subject": f'it\'s {n}% \\ "ü" ',
            "start": datetime(2020, 1, 1, 2, 3, 4, 5 + n),
            "day": date(2020, 1, 1 + n),
            "id": uuid.UUID(int=n) if is_mysql else n,
            "x": np.float32(0.1) + n,
            "y": 0.1 + n,
            "price": Decimal("1.10"),
            "kind": "ab"[n % 2],
        }
        for n in range(3)
    ]
    rows = [{**k, "waveform": a, "mask": a[:1]} for k, a in zip(keys, A, strict=True)]
    recording.insert(rows)
    for step in STEPS:
        found = dj_npy.migrate(again(recording), ["waveform", "mask"], step=step)
        assert found.ok, str(found)
        assert found.rows == (6 if step in ("survey", "copy") else 0)  # nothing is copied twice
    assert found.state == "not begun"
    for key, array in zip(keys, A, strict=True):
        row = (again(recording) & {"id": key["id"]}).fetch1()
        same(row["waveform"], array)
        same(row["mask"], array[:1])
        assert row["subject"] == key["subject"]
    for step in STEPS:
        assert dj_npy.migrate(again(recording), ["mask", "waveform"], to="blob", step=step).ok
    for key, array in zip(keys, A, strict=True):
        same((again(recording) & {"id": key["id"]}).fetch1("mask"), array[:1])


def test_parts_and_computed_tables_with_foreign_keys(schema: Any) -> None:
    class Session(dj.Manual):
        definition = "session_id : int32\n---\nmovie : <blob>"

        class Plane(dj.Part):
            definition = "-> master\nplane : int32\n---\nmean : <blob>"

    class Mean(dj.Computed):
        definition = "-> Session.Plane\n---\ntrace : <blob>"

        def make(self, key: dict[str, Any]) -> None:
            self.insert1({**key, "trace": np.asarray((Session.Plane() & key).fetch1("mean")) * 2})

    for each in (Session, Mean):
        schema(each)
    Session.insert1({"session_id": 1, "movie": A[0]})
    Session.Plane.insert([{"session_id": 1, "plane": n, "mean": A[0][n]} for n in range(2)])
    Mean.populate()
    for given, name in ((Session, "movie"), (Session.Plane, "mean"), (Mean, "trace")):
        assert dj_npy.migrate(given, name, step="switch").ok
    with pytest.raises(Exception, match=r"(?i)json|constraint"):  # a process with the old heading
        Session.Plane.insert1({"session_id": 1, "plane": 2, "mean": A[0][2]})
    again(Session.Plane()).insert1({"session_id": 1, "plane": 2, "mean": A[0][2]})
    for given, name in ((Session, "movie"), (Session.Plane, "mean"), (Mean, "trace")):
        assert dj_npy.migrate(given, name, step="finish").ok
    connection = schema.connection
    same(dj.FreeTable(connection, Session().full_table_name).fetch1("movie"), A[0])
    traces = dj.FreeTable(connection, Mean().full_table_name)
    same((traces & "plane = 1").fetch1("trace"), A[0][1] * 2)


def test_what_a_blob_cannot_have_stays_npy(recording: Any) -> None:
    arrays = [A[0], A[0].astype(">f4"), np.arange(3, dtype=np.float16), np.array(["a", "bc"])]
    fill(recording, arrays)
    survey = dj_npy.migrate(recording, "waveform", to="blob")
    assert {each.key["recording_id"] for each in survey.findings} == {1, 2, 3}
    done = dj_npy.migrate(recording, "waveform", to="blob", step="switch")
    assert {each.key["recording_id"] for each in done.findings} == {1, 2, 3}
    assert {each.what for each in done.findings} == {"no array"}
    check(again(recording), arrays)
    assert dj_npy.migrate(recording, "waveform", step="undo").ok
    check(again(recording), arrays)
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": 4}


def test_collect_spares_what_a_twin_has(table: MakeTable, schema: Any, store: Path) -> None:
    recording = fill(table("recording_id : int32\n---\nwaveform : <blob>\nother=null : <npy@>"), A)
    dj_npy.migrate(recording, "waveform", step="copy")
    from datetime import timedelta

    found = dj_npy.collect(schema, older_than=timedelta(0), dry_run=False)
    assert found.removed == 0
    assert len(files(store)) == 3
    dj_npy.migrate(recording, "waveform", step="switch")
    check(again(recording), A)
    found = dj_npy.collect(schema, older_than=timedelta(0), dry_run=False)
    assert (found.removed, len(files(store))) == (0, 3)


class TestRefusals:
    def test_before_anything_is_changed(self, table: MakeTable, schema: Any) -> None:
        recording = fill(table("recording_id : int32\n---\nwaveform : <blob>\ngain=1 : float64"), A)
        refused: Any = [
            ((recording & "recording_id = 1", "waveform"), {}, "whole table"),
            ((recording, "nothing"), {}, "recording_id, waveform, gain"),
            ((recording, "recording_id"), {}, "primary key"),
            ((recording, "gain"), {"step": "copy"}, "is of type"),
            ((recording, []), {}, "attributes"),
            ((recording, ["waveform", "waveform"]), {}, "different attributes"),
            ((recording, "waveform"), {"step": "go"}, "survey, copy, switch"),
            ((recording, "waveform"), {"to": "zarr"}, "'npy' or 'blob'"),
            ((recording, "waveform", "archive"), {"to": "blob"}, "for to='npy'"),
            ((recording, "waveform"), {"step": "finish"}, "not switched yet"),
            ((recording, "waveform"), {"step": "undo"}, "no migration"),
            ((recording, "waveform"), {"to": "blob", "step": "copy"}, "is <blob> already"),
            (([recording], "waveform"), {}, "whole table"),
        ]
        for arguments, options, message in refused:
            with pytest.raises(ArrayInvalidError, match=message):
                dj_npy.migrate(*arguments, **options)
        with pytest.raises(dj.DataJointError):
            dj_npy.migrate(recording, "waveform", "nowhere", step="copy")
        with recording.connection.transaction, pytest.raises(StoreError, match="transaction"):
            dj_npy.migrate(recording, "waveform", step="copy")
        assert columns(recording) == ["recording_id", "waveform", "gain"]

    def test_a_migration_that_was_begun_otherwise(self, table: MakeTable) -> None:
        recording = fill(table("recording_id : int32\n---\nwaveform : <blob>"), A)
        dj_npy.migrate(recording, "waveform", step="copy")
        with pytest.raises(ArrayInvalidError, match="to <npy@> was begun, not to <npy@archive>"):
            dj_npy.migrate(recording, "waveform", "archive", step="switch")
        assert dj_npy.migrate(recording, "waveform", step="switch").ok
        with pytest.raises(ArrayInvalidError, match="switched already"):
            dj_npy.migrate(again(recording), "waveform", step="copy")
        others: Any = ({"to": "blob"}, {"store": "archive"})
        for options in others:
            with pytest.raises(ArrayInvalidError, match="switched to <npy@>"):
                dj_npy.migrate(again(recording), "waveform", step="switch", **options)
        assert dj_npy.migrate(again(recording), "waveform", step="switch").ok

    def test_a_name_that_is_taken(self, table: MakeTable) -> None:
        recording = fill(table("recording_id : int32\n---\nwaveform : <blob>"), A)
        with another_session(recording.connection) as own:
            own.query(f"ALTER TABLE {recording.full_table_name} ADD COLUMN _waveform_new INT NULL")
        for step in ("survey", "copy", "switch"):
            with pytest.raises(ArrayInvalidError, match="_waveform_new"):
                dj_npy.migrate(recording, "waveform", step=step)
        check(recording, A)

    def test_external_storage_of_datajoint_0_14(self, table: MakeTable, database: Any) -> None:
        if database.connection.adapter.backend == "postgresql":
            pytest.skip("DataJoint 0.14 had no PostgreSQL")
        recording = table("recording_id : int32\n---\ngain=1 : float64")()
        with another_session(recording.connection) as own:
            own.query(
                f"ALTER TABLE {recording.full_table_name} "
                f"ADD COLUMN waveform BINARY(16) COMMENT ':blob@main:'"
            )
        with pytest.raises(ArrayInvalidError, match=r"of type blob@main, .*migrate_external"):
            dj_npy.migrate(again(recording), "waveform")

    def test_a_name_that_is_too_long(self, table: MakeTable) -> None:
        name = "w" * 60
        recording = table(f"recording_id : int32\n---\n{name} : <blob>")()
        with pytest.raises(ArrayInvalidError, match="too long"):
            dj_npy.migrate(recording, name, step="copy")

    def test_rows_without_an_array_since_the_switch(self, table: MakeTable) -> None:
        recording = fill(table("recording_id : int32\n---\nwaveform : <blob>"), A)
        dj_npy.migrate(recording, "waveform", step="switch")
        with another_session(recording.connection) as own:
            own.query(f"INSERT INTO {recording.full_table_name} (recording_id) VALUES (9)")
        with pytest.raises(ArrayInvalidError, match=r"1 rows .* inserted without waveform"):
            dj_npy.migrate(again(recording), "waveform", step="finish")
        (again(recording) & "recording_id = 9").delete(prompt=False)
        assert dj_npy.migrate(again(recording), "waveform", step="finish").ok


def test_the_command(
    table: MakeTable, configured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = fill(table("recording_id : int32\n---\nwaveform : <blob>"), A)
    name = f"{recording.database}.recording"
    assert main(["migrate", name, "waveform"]) == 0
    shown = capsys.readouterr().out
    assert "3 values looked at" in shown
    assert "waveform : <npy@>" in shown
    assert "next: copy" in shown
    assert main(["migrate", name, "waveform", "--store", "archive", "--switch", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["rows"], told["state"]) == (True, 3, "switched")
    assert main(["migrate", name, "waveform", "--finish"]) == 0
    capsys.readouterr()
    assert main(["migrate", name, "waveform", "--undo"]) == 1
    assert "no migration" in capsys.readouterr().err
    check(again(recording), A)
    table("recording_id : int32\n---\nwaveform : <blob>", "Other")().insert1(
        {"recording_id": 1, "waveform": [1, 2]}
    )
    assert main(["migrate", f"{recording.database}.other", "waveform"]) == 1
    assert "recording_id=1" in capsys.readouterr().out
    assert main(["migrate", name, "--switch"]) == 2


def test_an_account_with_schemas_of_its_own(few_grants: Any, store: Path) -> None:
    user = few_grants.connection.conn_info["user"]
    schema = few_grants.Schema(f"{user}_lab")
    definition = "recording_id : int32\n---\nwaveform : <blob>"
    recording = fill(schema(type("Recording", (dj.Manual,), {"definition": definition})), A)
    all_steps(recording)
    check(again(recording), A)
    assert dj_npy.migrate(again(recording), "waveform", to="blob", step="switch").ok
    undone = dj_npy.migrate(again(recording), "waveform", to="blob", step="undo")
    assert undone.state == "not begun"
    check(again(recording), A)
    assert len(files(store)) == len(A)
