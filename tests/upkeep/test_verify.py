"""`verify`: what is said of damage, in a reference, a table, a schema."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from tests.support.servers import s3_client, s3_settings

WAVEFORM = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def rows(recording: Any) -> Any:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(8)])
    return recording


def file_of(recording: Any, store: Path, n: int) -> Path:
    path: str = (recording & {"recording_id": n}).fetch1("waveform").path
    return store / path


def test_what_is_as_it_was_inserted(rows: Any, schema: Any) -> None:
    for given in (rows, rows(), schema):
        report = dj_npy.verify(given)
        assert report.ok
        assert report.counts == {"as described": 8}
        assert report.nbytes == 8 * WAVEFORM.nbytes
        assert not report.findings
        report = dj_npy.verify(given, checksums=True)
        assert report.counts == {"as inserted": 8}
        assert report.tables == [f"{schema.database}.recording.waveform"]


def test_a_schema_by_its_name(postgresql: Any, stores: Any, schema: Any, rows: Any) -> None:
    if schema.connection is postgresql.connection:  # that of `dj.conn()`
        assert dj_npy.verify(schema.database).counts == {"as described": 8}
    else:
        assert dj_npy.verify(schema).counts == {"as described": 8}


def test_a_restricted_table_and_a_join(rows: Any, schema: Any) -> None:
    assert dj_npy.verify(rows & "recording_id < 3").checked == 3
    assert dj_npy.verify(rows & "recording_id % 2 = 0").checked == 4
    definition = {"definition": "-> Recording\n---\nn : int32"}
    other = schema(type("Other", (dj.Manual,), definition), context={"Recording": rows})
    other.insert([{"recording_id": 2, "n": 1}])
    assert dj_npy.verify(rows * other).checked == 1
    assert dj_npy.verify(rows, schema, rows & "recording_id=1").checked == 17


def damage(rows: Any, store: Path) -> None:
    """One kind each to rows 0 to 5."""
    file_of(rows, store, 0).unlink()
    file = file_of(rows, store, 1)
    file.write_bytes(file.read_bytes()[:-1])
    np.save(file_of(rows, store, 2), WAVEFORM.astype("f4").repeat(2))
    file = file_of(rows, store, 3)
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    file_of(rows, store, 4).write_bytes(b"")
    file = file_of(rows, store, 5)
    file.write_bytes(b"x" * file.stat().st_size)


def test_each_kind_of_damage_is_told(rows: Any, store: Path) -> None:
    damage(rows, store)
    (rows & "recording_id=6").fetch1("waveform").load(mmap_mode="r+")[0, 0] = 9
    expected = {
        0: "missing",
        1: "cut short",
        2: "other array",
        3: "other bytes",
        4: "cut short",
        5: "other array",
        6: "changed since insert",
    }
    report = dj_npy.verify(rows, checksums=True)
    assert {f.key["recording_id"]: f.what for f in report.findings} == expected
    assert report.counts["as inserted"] == 1
    assert not report.ok
    for finding in report.findings:
        assert finding.table == rows.full_table_name.replace("`", "").replace('"', "")
        assert finding.attribute == "waveform"
        assert finding.store == "main"
        assert finding.path
        assert finding.message
    without = dj_npy.verify(rows)  # what only reading all bytes would tell
    expected = {n: what for n, what in expected.items() if n not in (3, 6)}
    assert {f.key["recording_id"]: f.what for f in without.findings} == expected
    assert without.counts["as described"] == 3


def test_a_change_through_a_map_is_no_damage(rows: Any) -> None:
    (rows & "recording_id=6").fetch1("waveform").load(mmap_mode="r+")[0, 0] = 9
    report = dj_npy.verify(rows, checksums=True)
    assert report.ok
    assert [finding.what for finding in report.findings] == ["changed since insert"]


def test_a_report_is_a_text_and_a_json(rows: Any, store: Path) -> None:
    damage(rows, store)
    report = dj_npy.verify(rows, checksums=True)
    text = str(report)
    assert "8 arrays" in text
    assert "1 missing" in text
    assert "(recording_id=0) waveform: could not read" in text
    loaded = json.loads(report.to_json())
    assert loaded["ok"] is False
    assert loaded["counts"]["cut short"] == 2
    assert loaded["findings"][0]["key"] == {"recording_id": 0}


def test_a_report_holds_so_many_findings_and_counts_all(
    rows: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dj_npy._upkeep.verify._KEPT", 3)
    damage(rows, store)
    report = dj_npy.verify(rows, checksums=True)
    assert len(report.findings) == 3
    assert sum(report.counts.values()) == 8
    assert "... and 3 more" in str(report)


def test_a_row_that_makes_no_sense_is_told(rows: Any) -> None:
    column = rows.connection.adapter.quote_identifier("waveform")
    climbs = '{"path": "../x.npy", "store": "main", "dtype": "f8", "shape": [1]}'
    for n, text in enumerate(['{"path": "a.npy"}', "3", climbs]):
        rows.connection.query(
            f"UPDATE {rows.full_table_name} SET {column} = %s WHERE recording_id = %s", (text, n)
        )
    report = dj_npy.verify(rows)
    found = {f.key["recording_id"]: f.what for f in report.findings}
    assert found == {0: "invalid row", 1: "invalid row", 2: "unreadable"}


def test_a_store_that_is_not_configured_or_not_there(
    rows: Any, store: Path, stores: dict[str, Any], database: Any
) -> None:
    store.rename(store.with_name("elsewhere"))
    report = dj_npy.verify(rows, checksums=True)
    assert report.counts == {"unreadable": 8}
    assert "mounted?" in report.findings[0].message
    database.config.stores = {"default": "archive", "archive": stores["archive"]}
    assert dj_npy.verify(rows).counts == {"unreadable": 8}


def test_rows_of_the_built_in_codec(table: Any, stores: Any, database: Any) -> None:
    old = table("id : int32\n---\nwaveform : <npy@main>", "Old")
    context = {"schema": "lab", "table": "old", "field": "waveform", "config": database.config}
    row = BuiltinNpyCodec().encode(WAVEFORM, key={"id": 1}, context=context, store_name="main")
    column = old.connection.adapter.quote_identifier("waveform")
    old.connection.query(
        f"INSERT INTO {old.full_table_name} (id, {column}) VALUES (1, %s)", (json.dumps(row),)
    )
    assert dj_npy.verify(old, checksums=True).counts == {"no checksum": 1}


# DataJoint cannot insert such into MariaDB.
@pytest.mark.parametrize("database", ["postgresql", "mysql"], indirect=True)
def test_a_codec_that_is_chained_to_ours_is_verified(schema: Any) -> None:
    name = f"chained_{uuid.uuid4().hex[:8]}"

    class Chained(dj.Codec):
        def get_dtype(self, is_store: bool) -> str:
            return "<npy@>"

        def encode(self, value: Any, *, key: Any = None, store_name: Any = None) -> Any:
            return value

        def decode(self, stored: Any, *, key: Any = None) -> Any:
            return stored

    Chained.name = name
    dj.codecs._codec_registry[name] = Chained()
    chained = schema(type("C", (dj.Manual,), {"definition": f"id : int32\n---\nx : <{name}>"}))
    chained.insert1({"id": 1, "x": WAVEFORM})
    assert dj_npy.verify(schema, checksums=True).counts == {"as inserted": 1}
    assert dj_npy.verify(chained, checksums=True).counts == {"as inserted": 1}


def test_on_s3(table: Any, database: Any, moto: str) -> None:
    cloud = s3_settings(moto, location=f"verify/{uuid.uuid4().hex}")
    database.config.stores["cloud"] = cloud
    far = table("id : int32\n---\nx : <npy@cloud>", "Far")
    dj_npy.insert(far, [{"id": n, "x": np.full(1000, n)} for n in range(40)])
    assert dj_npy.verify(far, checksums=True).counts == {"as inserted": 40}
    ref = (far & "id=7").fetch1("x")
    key = f"{cloud['location']}/{ref.path}"
    s3_client(moto).delete_object(Bucket="bucket", Key=key)
    report = dj_npy.verify(far)
    assert report.counts == {"size as described": 38, "as described": 1, "missing": 1}
    assert report.findings[0].key == {"id": 7}


def test_progress(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dj_npy.verify(rows, progress=True)
    assert "8/8 files" in capsys.readouterr().err


@pytest.mark.parametrize("given", [3, None, WAVEFORM, "no_such_schema"])
def test_what_is_neither_schema_nor_table_is_refused(postgresql: Any, given: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.verify(given)
    with pytest.raises(dj_npy.ArrayInvalidError, match="one schema or table"):
        dj_npy.verify()


def test_a_query_that_the_database_refuses_is_an_error(rows: Any) -> None:
    with pytest.raises(dj.DataJointError):
        dj_npy.verify(rows & "no_such_attribute = 1")


def test_rows_of_an_open_transaction_are_not_seen_and_it_goes_on(rows: Any) -> None:
    with rows.connection.transaction:
        rows.insert1({"recording_id": 100, "waveform": WAVEFORM})
        assert dj_npy.verify(rows).checked == 8
    assert dj_npy.verify(rows).checked == 9


def test_temporary_files_are_gone_afterwards(rows: Any) -> None:
    before = set(os.listdir("/proc/self/fd"))
    dj_npy.verify(rows)
    assert set(os.listdir("/proc/self/fd")) == before
