"""`rebuild`: rows come back from paths and headers, and none is guessed."""

import json
import shutil
import uuid
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from dj_npy._format.path import with_token
from dj_npy._moves import rebuild as rebuilding
from dj_npy._moves.declaring import plain_table
from dj_npy._moves.definitions import Definition
from dj_npy._moves.selection import Selection
from tests.conftest import MakeTable
from tests.support.servers import s3_settings


def rebuild(schema: Any, **options: Any) -> Any:
    return dj_npy.rebuild(connection=schema.connection, **options)


def of(rebuilt: Any, table: Any) -> Any:
    name = f"{table.database}.{table.table_name}"
    return next(each for each in rebuilt.tables if each.table == name)


def test_rows_come_back(table: MakeTable, schema: Any, store: Path) -> None:
    recording = table("n : int32\nprobe : varchar(20)\n---\nwaveform : <npy@>\nx = null : <npy@>")
    arrays = {(n, probe): np.arange(n + 1.0) for n in range(600) for probe in ("a", "b/é ")}
    recording.insert(
        {"n": n, "probe": probe, "waveform": array, "x": array[:1] if n % 2 else None}
        for (n, probe), array in arrays.items()
    )
    before = recording.to_dicts(order_by=("n", "probe"))
    recording.delete_quick()
    found = rebuild(schema)
    assert found.ok
    assert (found.rows, found.inserted, len(recording())) == (1200, False, 0)
    assert of(found, recording).arrays == {"waveform": "float64 (1,)", "x": "float64 (1,)"}
    assert "1,200 rows can be inserted" in str(found)
    rebuilt = rebuild(schema, insert_rows=True)
    assert (rebuilt.ok, rebuilt.rows) == (True, 1200)
    now = recording.to_dicts(order_by=("n", "probe"))
    assert [(r["n"], r["probe"], r["x"] is None) for r in now] == [
        (r["n"], r["probe"], r["x"] is None) for r in before
    ]
    for row in now:
        assert np.array_equal(row["waveform"], arrays[row["n"], row["probe"]])
    report = dj_npy.verify(schema, checksums=True)
    assert report.counts == {"as inserted": 1800}
    again = rebuild(schema, insert_rows=True)
    assert (again.ok, again.rows, of(again, recording).already) == (True, 0, 1200)
    collected = dj_npy.collect(schema)
    assert not collected.orphans


KEYS = {
    "int64": (-3, 2**62),
    "decimal(8,2)": (Decimal("12.50"), Decimal("-3.00")),
    "date": (date(2024, 1, 7),),
    "datetime": (datetime(2024, 1, 7, 12, 30, 5),),
    "datetime(6)": (datetime(2024, 1, 7, 12, 30, 5), datetime(2024, 1, 7, 12, 30, 5, 250)),
    "float64": (0.1, 1e22, -2.5),
    "varchar(90)": ("007", "a=b,c", "x y%z~", "é" * 10),
    "bool": (True, False),
    "enum('left','right')": ("left",),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_each_type(table: MakeTable, schema: Any, kind: str) -> None:
    scan = table(f"k : {kind}\n---\nmovie : <npy@>", "Scan")
    scan.insert({"k": k, "movie": np.arange(n)} for n, k in enumerate(KEYS[kind]))
    before = {row["movie"].path: row["k"] for row in scan.to_dicts()}
    scan.delete_quick()
    rebuilt = rebuild(schema, insert_rows=True)
    assert rebuilt.ok, rebuilt
    assert {row["movie"].path: row["k"] for row in scan.to_dicts()} == before
    assert rebuild(schema).rows == 0


def test_a_store_with_a_prefix_and_a_partition(
    table: MakeTable, schema: Any, stores: dict[str, Any]
) -> None:
    stores["main"] |= {"schema_prefix": "lab/arrays", "partition_pattern": "{day}/{subject}"}
    scan = table("subject : varchar(9)\nday : date\nn : int8\n---\nmovie : <npy@>", "Scan")
    row = {"subject": "m1", "day": date(2024, 1, 7), "n": 3, "movie": np.ones(3)}
    scan.insert1(row)
    path = scan.fetch1("movie").path
    assert path.startswith("lab/arrays/day=2024-01-07/subject=m1/")
    scan.delete_quick()
    assert rebuild(schema, insert_rows=True).rows == 1
    assert scan.fetch1("movie").path == path
    assert scan.fetch1("day") == date(2024, 1, 7)


def test_parents_that_want_no_more_come_back_too(table: MakeTable, schema: Any) -> None:
    subject = table("subject : varchar(9)\n---\nnote = null : varchar(9)", "Subject")
    schema.context = {"Subject": subject}
    session = table("-> Subject\nsession : int8\n---\nstart = '2020-01-01' : date", "Session")
    schema.context = {"Session": session}
    scan = table("-> Session\nscan : int8\n---\nmovie : <npy@>", "Scan")
    subject.insert({"subject": s} for s in "ab")
    session.insert({"subject": s, "session": n} for s in "ab" for n in range(3))
    keys = session.proj().to_dicts()
    scan.insert({**key, "scan": 1, "movie": np.ones(2)} for key in keys)
    for each in (scan, session, subject):
        each.delete_quick()
    assert rebuild(schema).rows == 2 + 6 + 6
    assert len(subject()) == 0
    assert rebuild(schema, insert_rows=True).rows == 2 + 6 + 6
    assert (len(subject()), len(session()), len(scan())) == (2, 6, 6)
    assert rebuild(schema, insert_rows=True).rows == 0


def test_a_table_without_a_key(table: MakeTable, schema: Any) -> None:
    setting = table("---\nfilter : <npy@>\nnote = null : varchar(9)", "Setting")
    setting.insert1({"filter": np.ones(3)})
    setting.delete_quick()
    assert rebuild(schema, insert_rows=True).rows == 1
    assert [row["filter"].shape for row in setting.to_dicts()] == [(3,)]
    again = rebuild(schema)
    assert (again.ok, again.rows, of(again, setting).already) == (True, 0, 1)


def test_rows_that_are_there_want_no_more(table: MakeTable, schema: Any) -> None:
    scan = table("n : int8\n---\nage : int8\nmovie : <npy@>", "Scan")
    scan.insert1({"n": 1, "age": 3, "movie": np.ones(2)})
    rebuilt = rebuild(schema)
    assert (rebuilt.ok, of(rebuilt, scan).wants) == (True, "")


def test_only_keys_are_read_and_a_table_is_asked_for_once(
    table: MakeTable, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = table("subject : int32\n---\nblob = null : <blob>", "Subject")
    schema.context = {"Subject": subject}
    scan = table("-> Subject\n---\nmovie : <npy@>", "Scan")
    subject.insert({"subject": n} for n in range(30))
    scan.insert({"subject": n, "movie": np.ones(2)} for n in range(30))
    scan.delete_quick()
    (subject & "subject > 3").delete_quick()
    asked, read = [], []
    cells = Selection.cells

    def recorded_table(connection: Any, there: Definition, *, arrays: bool) -> Any:
        asked.append(there)
        return plain_table(connection, there, arrays=arrays)

    def recorded_cells(self: Any, given: Definition) -> Any:
        read.append(given)
        return cells(self, given)

    monkeypatch.setattr(rebuilding, "plain_table", recorded_table)
    monkeypatch.setattr(Selection, "cells", recorded_cells)
    assert rebuild(schema, insert_rows=True).rows == 26 + 30
    assert len(asked) == 2
    assert [each.in_key for given in read for each in given.attributes] == [True, True]


def test_what_wants_more_is_told(table: MakeTable, schema: Any) -> None:
    subject = table("subject : varchar(9)\n---\nweight : float64", "Subject")
    schema.context = {"Subject": subject}
    scan = table("-> Subject\nscan : int8\n---\nmovie : <npy@>", "Scan")
    other = table("n : int8\n---\nage : int8\nmovie : <npy@>", "Other")
    subject.insert({"subject": s, "weight": 3} for s in "ab")
    scan.insert({"subject": s, "scan": 1, "movie": np.ones(2)} for s in "ab")
    other.insert1({"n": 1, "age": 3, "movie": np.ones(2)})
    for each in (scan, subject, other):
        each.delete_quick()
    subject.insert1({"subject": "b", "weight": 3})
    rebuilt = rebuild(schema, insert_rows=True)
    assert not rebuilt.ok
    assert of(rebuilt, other).wants == "wants age, which no path tells"
    [finding] = rebuilt.findings
    assert (finding.what, finding.key) == ("no parent", {"subject": "a", "scan": "1"})
    assert "which wants weight" in finding.message
    assert (len(scan()), len(other())) == (1, 0)


def test_nothing_is_guessed(table: MakeTable, schema: Any, store: Path) -> None:
    scan = table(
        "n : int32\nlong : varchar(300)\n---\nmovie : <npy@>\nmask = null : <npy@>", "Scan"
    )
    scan.insert(
        {"n": n, "long": "x" * 300 if n == 5 else "x", "movie": np.ones(n)} for n in range(6)
    )
    paths = {row["n"]: store / row["movie"].path for row in scan.to_dicts()}
    scan.delete_quick()
    relative = paths[0].relative_to(store)
    (store / with_token(str(relative))).write_bytes(paths[0].read_bytes())  # two of one row
    paths[1].write_bytes(b"no array")
    paths[2].write_bytes(paths[2].read_bytes()[:-3])
    shutil.copy(paths[3], paths[3].with_name("mask.npy"))
    paths[3].unlink()
    strange = paths[4].parents[1] / "n=04" / "long=x" / "movie.npy"
    strange.parent.mkdir(parents=True)
    paths[4].rename(strange)
    (store / "elsewhere").mkdir()
    np.save(store / "elsewhere" / "a.npy", np.ones(3))
    np.save(store / "loose.npy", np.ones(3))
    rebuilt = rebuild(schema, insert_rows=True)
    assert len(scan()) == 0
    assert rebuilt.counts == {"several files": 1, "no array": 2, "missing": 1, "key unknown": 2}
    told = json.loads(rebuilt.to_json())
    assert (told["ok"], len(told["findings"])) == (False, 6)
    assert "no array: " in str(rebuilt)


def test_tables_that_are_not_there_are_told(table: MakeTable, schema: Any, stores: Any) -> None:
    scan = table("n : int32\n---\nmovie : <npy@>", "Scan")
    scan.insert({"n": n, "movie": np.ones(n)} for n in range(3))
    scan.drop_quick()
    rebuilt = rebuild(schema)
    assert not rebuilt.ok
    assert (of(rebuilt, scan).files, of(rebuilt, scan).rows) == (3, 0)
    assert "declare it first" in str(rebuilt)


@pytest.mark.usefixtures("configured")
def test_the_command(table: MakeTable, schema: Any, capsys: Any) -> None:
    scan = table("n : int32\n---\nmovie : <npy@>", "Scan")
    scan.insert({"n": n, "movie": np.ones(n)} for n in range(3))
    scan.delete_quick()
    assert main(["rebuild"]) == 0
    assert "3 rows can be inserted" in capsys.readouterr().out
    assert len(scan()) == 0
    assert main(["rebuild", "main", "--insert", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert len(scan()) == 3


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_from_a_bucket(table: MakeTable, schema: Any, database: Any, seaweedfs: str) -> None:
    bucket = s3_settings(seaweedfs, location=f"rebuild/{uuid.uuid4().hex}")
    database.config.stores["bucket"] = bucket
    scan = table("n : int32\n---\nmovie : <npy@bucket>", "Scan")
    scan.insert({"n": n, "movie": np.ones(n)} for n in range(20))
    scan.delete_quick()
    assert rebuild(schema, store="bucket", insert_rows=True).rows == 20
    assert dj_npy.verify(scan, checksums=True).counts == {"as inserted": 20}
