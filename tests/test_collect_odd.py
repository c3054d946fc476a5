"""`collect` and `verify` where a row, a file or an argument is odd: it is told, and spared."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from tests.test_collect import files

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


@pytest.fixture
def rows(recording: Any) -> Any:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(6)])
    return recording


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
    # MariaDB's own JSON is a `longtext` with a check, which refuses what is nested so deep.
    deep = text == "deep" and rows.connection.adapter.backend != "postgresql"
    path = keep(TEXTS[text], "longtext" if deep else "json")
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
