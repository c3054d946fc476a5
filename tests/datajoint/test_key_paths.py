"""A path is that of the key as it is fetched, whatever the key was given as."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import datajoint as dj
import numpy as np
import pandas as pd
import pytest

import dj_npy
from dj_npy._datajoint.catalog import another_session
from dj_npy._format.path import array_path
from tests.conftest import MakeTable
from tests.support.servers import files

A = np.arange(3.0)
DEFINITION = """
    id : int32
    number : int32
    yes : bool
    single : float32
    double : float64
    price : decimal(6,2)
    day : date
    at : datetime
    exactly : datetime(3)
    since : time
    code : char(5)
    name : varchar(12)
    side : enum('left', 'Right', '1')
    ---
    waveform : <npy@>
    """
BASE = {
    "id": 0,
    "number": 1,
    "yes": True,
    "single": 0.5,
    "double": 0.5,
    "price": Decimal("1.00"),
    "day": date(2024, 1, 7),
    "at": datetime(2024, 1, 7),
    "exactly": datetime(2024, 1, 7),
    "since": "00:00:00",
    "code": "abcde",
    "name": "x",
    "side": "left",
}
NOON = datetime(2024, 1, 7, 12)
GIVEN: dict[str, list[Any]] = {
    "number": [8, np.int64(9), "10", " 011 ", True],
    "yes": ["1", np.bool_(False)],
    "single": [8, "0.25", 1 / 3, 0.1, np.float32(0.2), 16777217, 123456.7, -0.0],
    "double": [8, "0.25", 1 / 3, 0.1, np.float32(0.2), Decimal("0.30"), 1e22, -0.0],
    "price": [8, 1.5, "2.5", Decimal("1E+2"), 1.005, np.float64(3.5), True, "-0.001"],
    "day": ["2024-01-08", "20240109", "2024-1-10", pd.Timestamp("2024-01-11"), NOON],
    "at": [
        "2024-01-08",
        "2024-01-08T03:04",
        "20240108T030405",
        pd.Timestamp(NOON),
        date(2024, 2, 1),
    ],
    "exactly": [NOON.replace(microsecond=m) for m in (1, 1500, 2500, 999_999)],
    "since": ["3:04:05", "03:04", time(3, 4, 6), time(3, 4, 5, 600_000), timedelta(hours=5)],
    "code": ["ab", "cd ", "ef          ", "", 7],
    "name": ["ab", "cd  ", "ef" + 20 * " ", "é/é", 5, True, 1.5, date(2024, 1, 1), Decimal("1E+2")],
    "side": ["Right", "1", np.str_("left")],
}
"""Values that all databases take; each is one key."""
FEW: dict[str, list[Any]] = {
    "number": [18.0, 18.5, Decimal("1E+2"), "1e2"],
    "yes": [0, "t"],
    "day": [np.datetime64("2024-02-07"), 20240208, "2024-02-09 23:59:59.9"],
    "at": [
        *(NOON.replace(tzinfo=timezone(timedelta(hours=2))), NOON.replace(microsecond=600_000)),
        *("20240208030405", np.datetime64("2024-02-07T03:04:05.5", "ns"), "1999-01-01 00:00:00.5"),
    ],
    "since": ["-03:00:00", timedelta(hours=30), 40506],
    "name": [b"bytes", 1.0],
    "side": ["RIGHT", 2, "2", "right "],
}
"""Values that some databases refuse."""


def each(given: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    for name, values in given.items():
        for value in values:
            yield name, value


def check(table: Any, partition: str = "") -> int:
    """Check that each path is predicted by its fetched key, and return their number."""
    rows = table.to_dicts()
    for row in rows:
        key = {name: row[name] for name in table.primary_key}
        path = array_path(table.database, table.table_name, key, "waveform", partition=partition)
        assert row["waveform"].path == path
    return len(rows)


def test_a_path_is_predicted_by_the_fetched_key(table: MakeTable) -> None:
    recording = table(DEFINITION)
    inserted = 0
    for n, (name, value) in enumerate(each(GIVEN)):
        recording.insert1({**BASE, "id": n, name: value, "waveform": A})
        inserted += 1
    for n, (name, value) in enumerate(each(FEW), inserted):
        with contextlib.suppress(Exception):
            recording.insert1({**BASE, "id": n, name: value, "waveform": A})
            inserted += 1
    assert check(recording) == inserted


def test_also_if_many_are_uploaded_at_once(table: MakeTable) -> None:
    recording = table(DEFINITION)
    rows = [
        {**BASE, "id": n, name: value, "waveform": A} for n, (name, value) in enumerate(each(GIVEN))
    ]
    dj_npy.insert(recording, iter(rows))
    assert check(recording) == len(rows)


def test_also_of_a_data_frame(table: MakeTable) -> None:
    sessions = table("subject : varchar(9)\nday : date\nn : int32\n---\nwaveform : <npy@>")
    frame = pd.DataFrame(
        {
            "subject": ["a", "b"],
            "day": [date(2024, 1, 7), pd.Timestamp("2024-01-08")],
            "n": pd.array([1, 2], "Int64"),
            "waveform": [A, A],
        }
    )
    sessions.insert(frame)
    assert check(sessions) == 2


def test_also_in_front_of_the_schema(
    table: MakeTable, database: Any, stores: dict[str, Any]
) -> None:
    pattern = "{day}/{subject}"
    main = {**stores["main"], "partition_pattern": pattern}
    database.config.stores = {**stores, "main": main}
    sessions = table("subject : char(4)\nday : date\n---\nwaveform : <npy@>")
    sessions.insert1({"subject": "m1", "day": "20240107", "waveform": A})
    assert check(sessions, pattern) == 1
    assert sessions.fetch1("waveform").path.startswith("day=2024-01-07/subject=m1")


def test_also_of_a_key_that_is_another_tables(table: MakeTable, schema: Any) -> None:
    parent = table(DEFINITION.replace("waveform : <npy@>", "n = 0 : int32"), "Parent")

    @schema
    class Child(dj.Manual):
        definition = "-> parent\n---\nwaveform : <npy@>"

    given = {name: values[-1] for name, values in GIVEN.items() if name != "exactly"}
    row = {**BASE, **given}
    parent.insert1(row)
    Child.insert1({**row, "waveform": A})
    assert check(Child()) == 1


def test_also_after_an_update(table: MakeTable, database: Any) -> None:
    recording = table(DEFINITION)
    recording.insert1({**BASE, "waveform": A})
    before = recording.fetch1("waveform")
    key = {**BASE, "day": "2024-01-07", "price": "1"}
    recording.update1({**key, "waveform": A + 1})
    ref = recording.fetch1("waveform")
    assert ref.path.rpartition("/")[0] == before.path.rpartition("/")[0]
    assert ref.path != before.path
    assert ref[0] == 1


def test_an_update_in_another_case_is_of_the_rows_own_spelling(
    table: MakeTable, database: Any
) -> None:
    """MariaDB and MySQL take `m1` for `M1` by default; the row says which it is."""
    subjects = table("subject : varchar(9)\n---\nwaveform : <npy@>")
    subjects.insert1({"subject": "M1", "waveform": A})
    before = subjects.fetch1("waveform")
    row = {"subject": "m1", "waveform": A + 1}
    if database.connection.adapter.backend == "postgresql":
        with pytest.raises(dj.DataJointError, match="one existing entry"):
            subjects.update1(row)
        return
    subjects.update1(row)
    assert "subject=M1/" in subjects.fetch1("waveform").path
    assert before.path != subjects.fetch1("waveform").path


class Late(float):
    """A number that is told only after something else has happened."""

    before: Callable[[], object]

    def __str__(self) -> str:
        self.before()
        return repr(float(self))


@pytest.mark.parametrize("database", ["mariadb", "mysql"], indirect=True)
def test_an_update_of_a_row_that_another_session_deletes_meanwhile(
    table: MakeTable, schema: Any, store: Path
) -> None:
    """As if it had been deleted afterwards: no error, and a file that is collected."""
    subjects = table("subject : varchar(9)\n---\nweight : float64\nwaveform = null : <npy@>")
    subjects.insert1({"subject": "m1", "weight": 20})

    def delete() -> None:
        with another_session(schema.connection) as own, own._conn.cursor() as cursor:
            cursor.execute(f"DELETE FROM {subjects.full_table_name}")
            own._conn.commit()

    weight = Late(21)
    weight.before = delete
    subjects.update1({"subject": "m1", "weight": weight, "waveform": A})
    assert not len(subjects())
    dj_npy.collect(schema, older_than=timedelta(0), dry_run=False, at_most=1)
    assert files(store) == set()


@pytest.mark.parametrize("database", ["mariadb", "mysql"], indirect=True)
def test_a_uuid_may_be_a_text(table: MakeTable) -> None:
    recording = table("id : uuid\n---\nwaveform : <npy@>")
    recording.insert1({"id": UUID(int=0xABC).hex.upper(), "waveform": A})
    assert check(recording) == 1


def test_what_the_database_refuses_leaves_no_file(table: MakeTable, store: Path) -> None:
    recording = table(DEFINITION)
    refused = {"number": "eight", "price": "1e9", "day": "2024-02-30", "name": 13 * "x"}
    for name, value in refused.items():
        with pytest.raises(Exception, match=r"\S"):
            recording.insert1({**BASE, name: value, "waveform": A})
    assert files(store) == set()
    assert not len(recording())


def test_no_query_is_sent_for_it(table: MakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = table(DEFINITION)
    recording.insert1({**BASE, "waveform": A})
    sent: list[str] = []
    query = type(recording.connection).query

    def counting(self: Any, text: str, *args: Any, **options: Any) -> Any:
        sent.append(text)
        return query(self, text, *args, **options)

    monkeypatch.setattr(type(recording.connection), "query", counting)
    recording.insert({**BASE, "number": str(n), "waveform": A} for n in range(10, 60))
    assert len(sent) <= 2
