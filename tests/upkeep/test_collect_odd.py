"""`collect` and `verify` where a row, a file or an argument is odd: it is told, and spared."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
import dj_npy._stores.local.store
from dj_npy._stores import fsspec as generic
from dj_npy._stores.listed import UNTIMED
from tests.support.servers import files

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


TEXTS = {
    "escaped dot": lambda path: json.dumps({"path": path}).replace(".npy", "\\u002enpy"),
    "escaped letter": lambda path: json.dumps({"path": path}).replace(".npy", ".np\\u0079"),
    "key": lambda path: json.dumps({path: 1}),
    "twice": lambda path: f'{{"path": "{path}", "path": ""}}',
    "text within text": lambda path: json.dumps(json.dumps({"path": path})),
    "deep": lambda path: "[" * 2000 + json.dumps(path) + "]" * 2000,
    "number of 5,000 digits": lambda path: f'["{path}", {"9" * 5000}]',
    "surrogate": lambda path: f'["\\ud83d\\ude00", "{path}"]',
}


@pytest.fixture
def keep(rows: Any, schema: Any) -> Callable[..., str]:
    """Puts a text about the file of row 1 into another lab's table, and removes rows 0 and 1."""

    def put(text: Callable[[str], str], kind: str, value: str = "%s", suffix: str = "") -> str:
        query, quote = rows.connection.query, rows.connection.adapter.quote_identifier
        path = str((rows & "recording_id=1").fetch1("waveform").path)
        name = f"{quote(schema.database)}.{quote('of_another_lab')}"
        query(f"CREATE TABLE {name} (x {kind}) {suffix}")
        query(f"INSERT INTO {name} VALUES ({value})", (text(path),))
        (rows & "recording_id < 2").delete(prompt=False)
        return path

    return put


@pytest.mark.parametrize("text", TEXTS)
def test_a_row_of_any_json_keeps_its_file(
    keep: Callable[..., str], rows: Any, schema: Any, store: Path, text: str
) -> None:
    # MySQL's own JSON does not keep what was written, MariaDB's is a `longtext` with a check.
    is_postgresql = rows.connection.adapter.backend == "postgresql"
    path = keep(TEXTS[text], "json" if is_postgresql else "longtext")
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 1
    assert path in files(store)
    assert len(files(store)) == 5


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("jsonb", "%s"),
        ("jsonb[]", "ARRAY[%s::jsonb]"),
        ("json[]", "ARRAY[%s::json]"),
        ("odd_json", "%s"),
        ("even_odder_json", "%s"),
    ],
)
def test_a_json_of_any_type_of_postgresql_keeps_its_file(
    keep: Callable[..., str], rows: Any, schema: Any, store: Path, kind: str, value: str
) -> None:
    query, quote = rows.connection.query, rows.connection.adapter.quote_identifier
    name = quote(schema.database)
    if kind not in ("jsonb", "jsonb[]", "json[]"):
        query(f"CREATE DOMAIN {name}.odd_json AS json")
        query(f"CREATE DOMAIN {name}.even_odder_json AS {name}.odd_json")
        kind = f"{name}.{kind}"
    path = keep(lambda path: json.dumps({"path": path}), kind, value)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 1
    assert path in files(store)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_table_with_a_history_keeps_its_files(
    keep: Callable[..., str], schema: Any, store: Path
) -> None:
    """MariaDB does not call it a base table."""
    path = keep(lambda p: json.dumps({"path": p}), "json", suffix="WITH SYSTEM VERSIONING")
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 1
    assert path in files(store)


# --- files ---------------------------------------------------------------------------------------

TIMES = {"after 9999": 2**39, "never": 2**62, "before 1970": -1, "before time": -(2**40)}


@pytest.mark.parametrize("time", TIMES)
def test_a_file_whose_time_makes_no_sense_is_spared_and_told(
    rows: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch, time: str
) -> None:
    """The disks of the tests keep no such time, those of others do."""
    paths = sorted(row["waveform"].path for row in rows.to_dicts())
    (rows & "recording_id < 2").delete(prompt=False)
    odd = (store / paths[0]).stat().st_ino
    original = dj_npy._stores.local.store._time_of

    class Stat:
        st_mtime = float(TIMES[time])

    def time_of(stat: Any) -> Any:
        return original(Stat if stat.st_ino == odd else stat)  # type: ignore[arg-type]

    monkeypatch.setattr(dj_npy._stores.local.store, "_time_of", time_of)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.young, found.ok) == (1, 1, True)
    assert found.odd == [f"{paths[0]} in store 'main': its time makes no sense"]
    assert f"spared: {paths[0]}" in str(found)
    json.loads(found.to_json())
    assert paths[0] in files(store)


def test_a_real_odd_time(rows: Any, schema: Any, store: Path) -> None:
    (rows & "recording_id < 2").delete(prompt=False)
    for path in files(store):
        try:
            os.utime(store / path, (0, 2**39))
        except (OverflowError, OSError):
            pytest.skip("this disk has no such times")
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 0
    assert found.young == 2
    assert len(files(store)) == 6


@pytest.mark.parametrize("older_than", [timedelta(days=999_999), timedelta.max])
def test_an_age_older_than_time_itself(rows: Any, schema: Any, older_than: timedelta) -> None:
    (rows & "recording_id < 2").delete(prompt=False)
    found = dj_npy.collect(schema, older_than=older_than, dry_run=False)
    assert (found.removed, found.young) == (0, 2)
    json.loads(found.to_json())
    str(found)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_clock_that_makes_no_sense_removes_nothing(
    rows: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rows & "recording_id < 2").delete(prompt=False)
    monkeypatch.setattr(dj_npy._stores.local.store, "_time_of", lambda stat: UNTIMED)
    with pytest.raises(dj_npy.StoreError, match="clock"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert len(files(store)) == 6


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", [b"recording_id=\xff", b"recording_id=a\nb", b"recording_id= "])
def test_a_name_that_is_no_text(rows: Any, schema: Any, store: Path, name: bytes) -> None:
    (rows & "recording_id < 2").delete(prompt=False)
    folder = os.path.join(os.fsencode(store), schema.database.encode(), b"recording", name)
    os.mkdir(folder)
    with open(os.path.join(folder, b"waveform.npy"), "wb") as file:
        file.write(b"somebody's")
    found = dj_npy.collect(schema, older_than=timedelta(days=1), dry_run=False)
    assert (found.removed, found.young + found.unknown) == (0, 3)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed >= 2


@pytest.mark.parametrize(
    "info",
    [
        {"size": 3, "mtime": float("nan")},
        {"size": 3, "mtime": 1.7e12},  # milliseconds
        {"size": 3, "mtime": -1},
        {"size": 3, "LastModified": "yesterday"},
        {"size": 3, "LastModified": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
        {"size": 3},
        {"size": None, "mtime": 1.7e9},
    ],
)
def test_what_a_plugin_tells_may_be_odd(info: dict[str, Any]) -> None:
    assert generic._listed_as("a/b.npy", info).modified == UNTIMED


def test_a_file_of_two_numbers_stays_and_is_told(
    stored: Callable[..., dj_npy.NpyRef], store: Path
) -> None:
    """Some file systems of FUSE number a file anew each time it is looked at."""
    ref = stored(WAVEFORM)
    local = dj_npy._stores.local.store.LocalStore("main", str(store))
    [listed] = local.files()
    with pytest.raises(dj_npy.StoreError, match="the store lists it as of"):
        local.remove_listed(listed._replace(version="7-7"))
    assert (store / ref.path).exists()


# --- verify --------------------------------------------------------------------------------------

ODD_ROWS = {
    "deep": "[" * 2000 + "]" * 2000,
    "number of 5,000 digits": f'{{"path": "a.npy", "shape": [{"9" * 5000}]}}',
    "NaN": '{"path": "a.npy", "shape": [NaN], "dtype": Infinity}',
    "surrogate": '{"path": "\\ud800.npy", "shape": [1], "dtype": "float64", "store": "main"}',
    "text": '"waveform.npy"',
    "no JSON": "{",
}


@pytest.mark.parametrize("text", ODD_ROWS)
def test_one_odd_row_is_told_and_all_others_are_verified(rows: Any, schema: Any, text: str) -> None:
    query, quote = rows.connection.query, rows.connection.adapter.quote_identifier
    column = quote("waveform")
    if rows.connection.adapter.backend == "postgresql":
        if text in ("NaN", "no JSON"):
            pytest.skip("PostgreSQL does not keep it")
        query(f"ALTER TABLE {rows.full_table_name} ALTER {column} TYPE json")
    else:  # without the check that it is a JSON
        [(comment,)] = query(
            "SELECT column_comment FROM information_schema.columns WHERE table_schema = %s "
            "AND table_name = 'recording' AND column_name = 'waveform'", (schema.database,)
        ).fetchall()  # fmt: skip
        query(f"ALTER TABLE {rows.full_table_name} MODIFY {column} longtext COMMENT '{comment}'")
    query(
        f"UPDATE {rows.full_table_name} SET {column} = %s WHERE recording_id = 2",
        (ODD_ROWS[text],),
    )
    for given in (schema, rows, rows & "recording_id > 1"):
        report = dj_npy.verify(given, checksums=True)
        assert report.counts["as inserted"] == report.checked - 1
        [finding] = report.findings
        assert finding.what in ("invalid row", "unreadable")
        assert finding.key == {"recording_id": 2}
        assert not report.ok
        json.loads(report.to_json())
        str(report).encode()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 1
