"""Schemas, tables and rows: on every database, and whatever is asked of them."""

import json
import math
import time
import uuid
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

from dj_npy._view import arrays as arrays_module
from dj_npy._view import catalog as catalog_module
from dj_npy._view import database as database_module
from dj_npy._view import listing as listing_module
from dj_npy._view.answers import Refused
from dj_npy._view.conditions import check_condition
from dj_npy._view.database import Database, select
from dj_npy._view.listing import tier
from tests.conftest import MakeTable, is_mariadb, serving_mariadb
from tests.support.cases import case
from tests.view.conftest import Page, served, until

WAVEFORM = np.arange(12, dtype=">i2").reshape(3, 4)


def name_of(table: Any) -> str:
    return f"{table.database}.{table.table_name}"


@pytest.fixture
def recordings(recording: Any) -> Any:
    """Ten rows; the arrays of some are NULL."""
    recording.insert(
        {"recording_id": n, "waveform": WAVEFORM + n if n % 3 else WAVEFORM} for n in range(10)
    )
    return recording


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("recording", "manual"),
        ("#lookup", "lookup"),
        ("_imported", "imported"),
        ("__computed", "computed"),
        ("recording__trial", "part"),
        ("__computed__trial", "part"),
        ("#lookup__item", "part"),
    ],
)
def test_tiers_are_told_by_names(table: str, expected: str) -> None:
    assert tier(table) == expected


def test_schemas_list_tables_and_their_arrays(page: Page, schema: Any, table: MakeTable) -> None:
    table("subject : varchar(20)\n---\nage = null : int32", "Subject")
    table("n : int32\n---\nwaveform : <npy@>\nother = null : <npy@archive>", "TwoArrays", dj.Lookup)
    found = page.fine("schemas").json
    assert found["version"]
    [tables] = [each["tables"] for each in found["schemas"] if each["name"] == schema.database]
    by_class = {each["class"]: each for each in tables}
    assert by_class.keys() == {"Subject", "TwoArrays"}  # and none of DataJoint's own
    assert by_class["Subject"]["arrays"] == []
    assert by_class["TwoArrays"]["arrays"] == ["waveform", "other"]
    assert by_class["TwoArrays"]["tier"] == "lookup"
    assert by_class["TwoArrays"]["name"] == f"{schema.database}.#two_arrays"
    assert by_class["Subject"]["rows"] in (None, 0)
    assert "mysql" not in {each["name"] for each in found["schemas"]}


def test_a_schema_may_be_named_almost_as_one_of_the_server(page: Page, database: Any) -> None:
    connection = database.connection
    adapter, in_postgresql = connection.adapter, connection.adapter.backend == "postgresql"
    names = {"sys", "mysql"} if in_postgresql else {"Sys", "MYSQL", "pg_lab"}
    try:
        for name in names:
            connection.query(adapter.create_schema_sql(name))
            connection.query(f"CREATE TABLE {adapter.make_full_table_name(name, 'one')} (n INT)")
        assert names <= {each["name"] for each in page.fine("schemas").json["schemas"]}
        for name in names:
            [attribute] = page.fine("table", table=f"{name}.one").json["attributes"]
            assert attribute["name"] == "n"
    finally:
        for name in names:
            connection.query(adapter.drop_schema_sql(name))


@pytest.mark.slow
def test_names_that_differ_in_case_may_be_the_same(tmp_path: Path) -> None:
    """As on Windows and macOS; on Linux, only if the server is told so."""
    with serving_mariadb(tmp_path / "folding", "--lower-case-table-names=1") as folding:
        folding.connection.query("CREATE SCHEMA Lab")
        folding.connection.query("CREATE TABLE Lab.one (n INT)")
        with served(folding.connection) as page:
            [schema] = page.fine("schemas").json["schemas"]
            assert schema["name"] == "lab"
            page.fine("table", table="LAB.one")
            for name in ("mysql.db", "MYSQL.db", "Information_Schema.tables"):
                page.refused(404, "table", table=name)


def test_some_schemas_can_be_chosen(database: Any, schema: Any, recording: Any) -> None:
    with served(database.connection, schema.database) as page:
        assert [each["name"] for each in page.fine("schemas").json["schemas"]] == [schema.database]


def test_rows_are_estimated(page: Page, recordings: Any) -> None:
    if recordings.connection.adapter.backend == "postgresql":
        recordings.connection.query(f"ANALYZE {recordings.full_table_name}")
    else:
        recordings.connection.query(f"ANALYZE TABLE {recordings.full_table_name}").fetchall()
    found = page.fine("schemas").json["schemas"]
    [one] = [t for each in found for t in each["tables"] if t["name"] == name_of(recordings)]
    assert one["rows"] == 10
    assert one["bytes"] > 0


def test_tables_are_counted_and_not_estimated_to_be_empty(
    page: Page, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after they were filled: MySQL's estimate is of the day before."""
    page.fine("schemas")
    recordings.insert({"recording_id": n, "waveform": WAVEFORM} for n in range(10, 15))
    counts = page.fine("counts").json
    assert counts["rows"][name_of(recordings)] == 15
    assert counts["most"] > 1000
    monkeypatch.setattr(listing_module, "_FEW_ROWS", 12)
    counts = page.fine("counts").json
    assert (counts["rows"][name_of(recordings)], counts["most"]) == (13, 12)


def test_counting_takes_a_query_for_many_tables_and_some_seconds(
    page: Page, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = []

    def counted(session: Any, query: str, *values: Any) -> Any:
        queries.append(query)
        return select(session, query, *values)

    names = [name_of(table("n : int32", f"Table{n}")) for n in range(7)]
    listed = page.fine("schemas").json["schemas"]
    number = sum(len(each["tables"]) for each in listed)
    monkeypatch.setattr(listing_module, "select", counted)
    found = page.fine("counts").json["rows"]
    assert [found[name] for name in names] == [0] * 7
    assert 2 <= len(queries) <= 2 + number // 100
    monkeypatch.setattr(listing_module, "_COUNTING_S", 0)
    assert page.fine("counts").json["rows"] == {}


def test_a_table_that_is_locked_leaves_the_others_counted(
    page: Page, recordings: Any, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "_BATCH_S", 0.2)
    monkeypatch.setattr(listing_module, "_COUNTING_S", 20)
    free = table("n : int32", "Free")
    in_postgresql = recordings.connection.adapter.backend == "postgresql"
    lock, unlock = (
        ("BEGIN; LOCK TABLE {}", "ROLLBACK")
        if in_postgresql
        else ("LOCK TABLES {} WRITE", "UNLOCK TABLES")
    )
    with recordings.connection._conn.cursor() as cursor:
        cursor.execute(lock.format(recordings.full_table_name))
        try:
            found = page.fine("counts").json["rows"]
        finally:
            cursor.execute(unlock)
    assert found[name_of(free)] == 0
    assert name_of(recordings) not in found


def test_a_table_that_takes_long_to_count_has_its_estimate(
    page: Page, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recordings.connection.adapter.backend == "postgresql":
        recordings.connection.query(f"ANALYZE {recordings.full_table_name}")
    else:
        recordings.connection.query(f"ANALYZE TABLE {recordings.full_table_name}").fetchall()

    def stopped(*_: Any, **__: Any) -> int:
        raise Refused(413, "too long")

    found = page.fine("table", table=name_of(recordings)).json
    assert (found["rows"], found["estimated"]) == (10, False)
    monkeypatch.setattr(page.server.app._catalog, "_count", stopped)
    found = page.fine("table", table=name_of(recordings)).json
    assert (found["rows"], found["estimated"]) == (10, True)


def test_what_datajoint_cannot_open_is_not_listed_and_said_to_be(postgresql: Any) -> None:
    """It asks PostgreSQL for names without quotes, in which capitals are small letters."""
    connection, names = postgresql.connection, ["Capital.one", "capital.Two", "capital.and spaces"]
    try:
        for schema, table in (name.split(".") for name in [*names, "capital.#fine"]):
            connection.query(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            connection.query(f'CREATE TABLE "{schema}"."{table}" (n INT PRIMARY KEY)')
        with served(connection) as page:
            found = page.fine("schemas").json
            assert sorted(found["unlisted"]) == sorted(names)
            [listed] = [each for each in found["schemas"] if each["name"].lower() == "capital"]
            assert [each["name"] for each in listed["tables"]] == ["capital.#fine"]
            page.fine("table", table="capital.#fine")
            for name in names:
                assert "capitals" in page.refused(404, "table", table=name)
    finally:
        for schema in ("Capital", "capital"):
            connection.query(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def test_a_table_is_described(page: Page, schema: Any, table: MakeTable) -> None:
    subject = table(
        "# a mouse\nsubject : varchar(20) # its name\n---\nage = null : int32", "Subject"
    )
    context = {"Subject": subject}
    session = schema(
        type("Session", (dj.Manual,), {"definition": "-> Subject\nday : date\n---\nm : <npy@>"}),
        context=context,
    )
    renamed = "n : int32\n---\n-> Subject.proj(first='subject')"
    schema(type("Pair", (dj.Manual,), {"definition": renamed}), context=context)
    subject.insert1({"subject": "a"})
    hidden = subject.connection.adapter.make_full_table_name(schema.database, "~hidden")
    with subject.connection._conn.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {hidden} (subject VARCHAR(20), "
            f"FOREIGN KEY (subject) REFERENCES {subject.full_table_name} (subject))"
        )
    found = page.fine("table", table=name_of(subject)).json
    assert (found["class"], found["comment"], found["rows"]) == ("Subject", "a mouse", 1)
    assert found["parents"] == []
    assert sorted(found["children"], key=lambda each: str(each["table"])) == [
        {"table": f"{schema.database}.pair", "class": "Pair", "attributes": {"first": "subject"}},
        {
            "table": f"{schema.database}.session",
            "class": "Session",
            "attributes": {"subject": "subject"},
        },
    ]
    first, second = found["attributes"]
    assert first | {"default": None} == {
        "name": "subject",
        "type": "varchar(20)",
        "key": True,
        "array": False,
        "nullable": False,
        "comment": "its name",
        "default": None,
    }
    assert (second["key"], second["nullable"], second["type"]) == (False, True, "int32")
    assert "subject" in found["definition"]
    found = page.fine("table", table=name_of(session)).json
    assert [each["table"] for each in found["parents"]] == [name_of(subject)]
    [array] = [each for each in found["attributes"] if each["array"]]
    assert (array["name"], array["type"]) == ("m", "<npy@>")


def test_values_are_as_a_browser_can_hold_them(page: Page, schema: Any, table: MakeTable) -> None:
    different = table(
        "id : int64\n---\nsmall : int32\nx : float64\nprice : decimal(10,2)\nday : date\n"
        "at : datetime\nkind : enum('a','b')\nnote : varchar(4000)\nnothing = null : int32\n"
        "raw : bytes\nextra : json\nwaveform : <npy@>\nother = null : <npy@>\nok : bool",
        "Different",
    )
    row = {
        "id": (1 << 60) + 1,
        "small": -5,
        "x": 0.1,
        "price": "12.50",
        "day": "2024-01-02",
        "at": "2024-01-02 03:04:05",
        "kind": "b",
        "note": "ü" * 1500,
        "raw": b"12345",
        "extra": {"a": 1},
        "waveform": WAVEFORM,
        "ok": True,
    }
    different.insert1(row)
    described = page.fine("table", table=name_of(different)).json
    [values] = page.fine("rows", table=name_of(different)).json["rows"]
    found = dict(zip([each["name"] for each in described["attributes"]], values, strict=True))
    same = ("small", "x", "price", "day", "at", "kind")
    array = found.pop("waveform")
    assert found.pop("extra").replace(" ", "") == '{"a":1}'
    assert found.pop("ok") in (1, "true", True)
    assert found == {
        **{name: row[name] for name in same},
        "id": str((1 << 60) + 1),
        "note": "ü" * 1000 + "…",
        "nothing": None,
        "raw": {"bytes": 5},
        "other": None,
    }
    path = different.fetch1("waveform").path
    assert array == {"shape": [3, 4], "dtype": ">i2", "nbytes": 24, "path": path, "store": "main"}
    # The key of a row leads to its array, though it is no number in a browser.
    key = json.dumps({"id": found["id"]})
    info = page.fine("array", table=name_of(different), attribute="waveform", key=key).json
    assert info["path"] == path
    wrong = json.dumps({"id": str(1 << 60)})
    page.refused(404, "array", table=name_of(different), attribute="waveform", key=wrong)
    page.refused(404, "array", table=name_of(different), attribute="other", key=key)


def test_a_table_that_takes_long_to_count_is_described(
    page: Page, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_COUNT_S", 1)
    adapter = recordings.connection.adapter
    slow = adapter.make_full_table_name(recordings.database, "slow")
    sleep = "pg_sleep(60) IS NULL" if adapter.backend == "postgresql" else "sleep(60) = 1"
    recordings.connection.query(
        f"CREATE VIEW {slow} AS SELECT recording_id FROM {recordings.full_table_name} WHERE {sleep}"
    )
    found = page.fine("table", table=f"{recordings.database}.slow").json
    assert [each["name"] for each in found["attributes"]] == ["recording_id"]
    assert found["rows"] is None
    recordings.connection.query(f"DROP VIEW {slow}")


def test_a_row_that_says_nothing_of_its_array_says_why(page: Page, recordings: Any) -> None:
    quote = recordings.connection.adapter.quote_identifier
    recordings.connection.query(
        f"UPDATE {recordings.full_table_name} SET {quote('waveform')} = '{{}}'"
    )
    rows = page.fine("rows", table=name_of(recordings)).json["rows"]
    assert all(row[1].keys() == {"error"} for row in rows)


def test_other_codecs_are_not_read(
    page: Page, schema: Any, table: MakeTable, database: Any
) -> None:
    if is_mariadb(database):
        pytest.skip("<blob@> cannot be inserted there")
    mixed = table(
        "n : int32\n---\ninside : <blob>\nbeside : <blob@>\nnone = null : <blob>", "Mixed"
    )
    mixed.insert1({"n": 1, "inside": np.zeros(10), "beside": np.zeros(10)})
    [row] = page.fine("rows", table=name_of(mixed)).json["rows"]
    assert row == [1, {"codec": "<blob>"}, {"codec": "<blob@>"}, None]


def test_pages_go_on_behind_the_last_key(page: Page, table: MakeTable) -> None:
    pairs = table("subject : varchar(10)\nn : int32\nday : date\n---\nx = 0 : int32", "Pairs")
    pairs.insert(
        {"subject": s, "n": n, "day": d}
        for s in ("a", "b'c", 'd"%s')
        for n in range(-2, 3)
        for d in ("2024-01-01", "2024-01-02")
    )
    for order in ("", "subject", "-subject"):
        with case(order):
            expected = pairs.to_dicts(order_by="KEY DESC" if order.startswith("-") else "KEY")
            wanted = [[e["subject"], e["n"], str(e["day"]), 0] for e in expected]
            pages = all_pages(page, pairs, order=order, limit=7)
            assert [len(each["rows"]) for each in pages] == [7, 7, 7, 7, 2]
            assert all(each["next"].keys() == {"after"} for each in pages[:-1])
            assert [row for each in pages for row in each["rows"]] == wanted


def all_pages(page: Page, table: Any, **params: Any) -> list[Any]:
    """Go on from page to page, to the last."""
    pages = [page.fine("rows", table=name_of(table), **params).json]
    while pages[-1]["next"] is not None:
        assert pages[-1]["more"]
        pages.append(page.fine("rows", table=name_of(table), **params, **pages[-1]["next"]).json)
    assert not pages[-1]["more"]
    return pages


KEYS: dict[str, list[Any]] = {
    "enum('c','a','b')": ["a", "b", "c"],
    "uuid": [uuid.UUID(int=n << 100) for n in range(1, 4)],
    "decimal(6,2)": ["-1.50", "0.25", "12.00"],
    "datetime": [f"2024-01-02 03:04:0{n}" for n in range(3)],
    "int64": [-(1 << 60), 0, (1 << 60) + 1],
    "varchar(700)": ["ü" * 699, "ü" * 700, "%s'\"%"],
}


def test_a_key_of_any_type_leads_on_and_to_its_array(
    page: Page, table: MakeTable, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_MAX_TEXT", 5)  # a key is never cut
    for number, (kind, values) in enumerate(KEYS.items()):
        if kind == "uuid" and database.connection.adapter.backend == "postgresql":
            continue  # DataJoint inserts none there
        with case(kind):
            keyed = table(f"k : {kind}\n---\nm : <npy@>", f"Keyed{number}")
            leads_on_and_to_its_array(page, keyed, values)


def leads_on_and_to_its_array(page: Page, keyed: Any, values: list[Any]) -> None:
    keyed.insert({"k": each, "m": np.arange(n)} for n, each in enumerate(values))
    for order in ("k", "-k"):
        rows = [
            row for each in all_pages(page, keyed, order=order, limit=1) for row in each["rows"]
        ]
        assert sorted(str(row[0]) for row in rows) == sorted(map(str, values))
    for key, described in rows:
        named = {"table": name_of(keyed), "attribute": "m", "key": json.dumps({"k": key})}
        found = page.fine("array", **named).json
        assert found["path"] == described["path"]
        assert found["shape"] == [[str(each) for each in values].index(str(key))]


def test_rows_can_be_ordered_by_any_plain_attribute(page: Page, table: MakeTable) -> None:
    ages = table(
        "n : int32\n---\nage = null : int32\nraw = null : bytes\nm = null : <npy@>", "Ages"
    )
    ages.insert({"n": n, "age": None if n == 3 else (7 * n) % 5} for n in range(10))
    pages = all_pages(page, ages, order="-age", limit=3)
    found = [row for each in pages for row in each["rows"]]
    assert sorted(each[0] for each in found) == list(range(10))
    known = [each[1] for each in found if each[1] is not None]
    assert known == sorted(known, reverse=True)
    for order in ("m", "raw", "no_such", "n; DROP TABLE x", '"n"'):
        page.refused(400, "rows", table=name_of(ages), order=order)


def test_rows_are_restricted_in_the_words_of_datajoint(page: Page, recordings: Any) -> None:
    def ids(restriction: str, **more: Any) -> list[int]:
        reply = page.fine("rows", table=name_of(recordings), restriction=restriction, **more)
        return [row[0] for row in reply.json["rows"]]

    assert ids("recording_id > 6") == [7, 8, 9]
    assert ids("recording_id > 6 AND (recording_id < 9 OR waveform IS NULL)") == [7, 8]
    assert ids("recording_id % 2 = 1 and recording_id in (1, 2, 3)") == [1, 3]
    assert ids('{"recording_id": 3}') == [3]
    assert ids('{"recording_id": "3"}') == [3]
    assert ids('{"waveform": null}') == []
    assert ids(" ") == list(range(10))
    reply = page.fine(
        "rows", table=name_of(recordings), restriction="recording_id > 6", limit=0, count=1
    )
    assert (reply.json["count"], reply.json["rows"]) == (3, [])
    assert page.fine("rows", table=name_of(recordings)).json["count"] is None
    message = page.refused(400, "rows", table=name_of(recordings), restriction="waveform > 3")
    assert "waveform cannot be compared" in message
    message = page.refused(400, "rows", table=name_of(recordings), restriction="nosuch > 3")
    assert "nosuch" in message
    page.refused(400, "rows", table=name_of(recordings), restriction="recording_id >")
    page.refused(400, "rows", table=name_of(recordings), restriction='{"nosuch": 3}')


def test_a_restriction_that_fails_names_the_attributes_that_there_are(
    page: Page, recordings: Any
) -> None:
    for wrong in ("nosuch > 3", '{"nosuch": 3}', "recording_id >", "waveform > 3"):
        with case(wrong):
            message = page.refused(400, "rows", table=name_of(recordings), restriction=wrong)
            assert message.endswith(". The attributes are recording_id, waveform")


HOSTILE = [
    "1=1; DROP TABLE {0}",
    "1=1); DROP TABLE {0}; --",
    "1=1); COMMIT; DELETE FROM {0}; SELECT (1",
    "1=1) OR (1=1",
    "1=1) UNION SELECT 1, 'x' -- ",
    "1=1) /* ",
    "1=1) INTO OUTFILE '/tmp/x' -- ",
    "1=1) #",
    "recording_id = '1",
    'recording_id = "1',
    "recording_id = $$; DROP TABLE {0}$$",
    "recording_id = '\\'; DROP TABLE {0}; -- '",
    "recording_id = 1 \x00",
    "((recording_id = 1)",
    '{{"recording_id\\" = 1; DROP TABLE {0}; --": 1}}',
    '{{"recording_id": [1]}}',
    '{{"recording_id": {{"a": 1}}}}',
    '{{"recording_id": "1; DROP TABLE {0}"}}',
    '{{"recording_id": NaN}}',
    '{{"recording_id": 1e999999999}}',
    '{{"recording_id": "1e-999999999"}}',
    "{{",
]


def test_a_restriction_is_one_condition_and_no_more(page: Page, recordings: Any) -> None:
    name = name_of(recordings)
    for hostile in HOSTILE:
        with case(hostile):
            restriction = hostile.format(recordings.full_table_name)
            page.refused(400, "rows", table=name, restriction=restriction)
            page.refused(400, "rows", table=name, restriction=restriction, count=1, limit=0)
            assert len(recordings()) == 10


@pytest.mark.parametrize(
    "text",
    [
        "a = 'x;y' AND b = '--' OR c = \"#$/*\" AND (\"d\" > 1)",
        "a = 'it''s' AND b LIKE '10%'",
        "'a' -''- b",
        "((a = 1)) AND (b = (2))",
        "a - 1 = -1",
        "",
    ],
)
def test_conditions_may_have_anything_in_quotes(text: str) -> None:
    for mark in ('"', "`"):
        check_condition(text, mark)


@pytest.mark.parametrize("text", ["a = 1 --'", "')' )", "a = '''", "`", ")(", "-''-;"])
def test_quotes_hide_nothing_else(text: str) -> None:
    for mark in ('"', "`"):
        with pytest.raises(Refused):
            check_condition(text, mark)


def test_backticks_are_quotes_where_names_are_in_them() -> None:
    check_condition("`a;` = 1", "`")
    with pytest.raises(Refused):  # PostgreSQL would see two strings, and a statement between them
        check_condition("`'` = '; COMMIT; DROP TABLE x; ' = `'`", '"')


def test_nothing_is_written(database: Any, recordings: Any) -> None:
    """Not even by what would get past all checks."""
    own, name = Database(database.connection), recordings.full_table_name
    backup = f"{name[:-1]}_copy{name[-1]}"
    for statement in (
        f"DELETE FROM {name}",
        f"INSERT INTO {name} (recording_id) VALUES (77)",
        f"DROP TABLE {name}",
        f"CREATE TABLE {backup} AS SELECT * FROM {name}",
        f"TRUNCATE TABLE {name}",
        f"ALTER TABLE {name} ADD x INT",
    ):
        with pytest.raises(Refused) as refused, own.session() as session:
            select(session, statement)
        assert refused.value.status == 400
    with own.session() as session:
        [(count,)] = select(session, f"SELECT count(*) FROM {name}")
        database_module.run(session, ["ROLLBACK"])
        with pytest.raises(Exception, match=r"(?i)read.only"):
            select(session, f"DELETE FROM {name}")
    assert count == len(recordings()) == 10
    own.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_no_function_in_a_restriction_writes(page: Page, recordings: Any) -> None:
    query = recordings.connection.query
    query("CREATE SEQUENCE public.of_the_view")
    try:
        for restriction in ("nextval('of_the_view') > 0", "setval('of_the_view', 9) > 0"):
            message = page.refused(400, "rows", table=name_of(recordings), restriction=restriction)
            assert "read-only" in message
        assert query("SELECT nextval('of_the_view')").fetchone()[0] == 1
    finally:
        query("DROP SEQUENCE public.of_the_view")


def test_a_query_has_a_time_limit(
    page: Page, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LIMIT_S", 1)
    in_postgresql = recordings.connection.adapter.backend == "postgresql"
    sleep = "pg_sleep(3600) IS NULL" if in_postgresql else "sleep(3600) = 1"
    for more in ({}, {"count": 1, "limit": 0}):
        message = page.refused(413, "rows", table=name_of(recordings), restriction=sleep, **more)
        assert "1 s" in message
    monkeypatch.undo()
    assert len(page.fine("rows", table=name_of(recordings)).json["rows"]) == 10


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_query_cannot_end_its_time_limit(database: Any) -> None:
    """Not for itself, and not for those after it. In MySQL, no expression sets a variable."""
    own = Database(database.connection)
    for is_local in ("true", "false"):
        with own.session(1) as session:
            select(session, f"SELECT set_config('statement_timeout', '0', {is_local})")
        with pytest.raises(Refused) as refused, own.session(1) as session:
            select(session, f"SELECT set_config('transaction_read_only', 'off', {is_local})")
        assert refused.value.status == 400
        with pytest.raises(Refused) as refused, own.session(1) as session:
            select(session, "SELECT pg_sleep(60)")
        assert refused.value.status == 413
    own.close()


def test_nothing_of_a_restriction_outlives_its_request(
    page: Page, recordings: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither locks nor variables nor settings."""
    monkeypatch.setattr(database_module, "LIMIT_S", 1)
    query = database.connection.query
    if database.connection.adapter.backend == "postgresql":
        kept = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        state = "SELECT current_setting('work_mem'), current_setting('is.kept', true)"
        taken = ["pg_advisory_lock(7) IS NOT NULL", "pg_try_advisory_lock_shared(8)"]
        taken += ["set_config('work_mem', '1GB', 'f') = set_config('is.kept', '1', 'f')"]
        late = "pg_advisory_lock(9) IS NULL OR pg_sleep(60) IS NULL"
    else:
        kept = "SELECT count(is_used_lock('a')) + count(is_used_lock('b'))"
        state = "SELECT @recording_id"
        taken = ["get_lock('a', 0) = 1", "(@recording_id := 5) = 5"]
        late = "get_lock('b', 0) = 0 OR sleep(60) = 1"
    own = page.server.app.database

    def of_session() -> Any:
        with own.session() as session:
            return select(session, state)

    before = of_session()
    for restriction in taken:
        for more in ({}, {"count": 1, "limit": 0}):
            page.fine("rows", table=name_of(recordings), restriction=restriction, **more)
    page.refused(413, "rows", table=name_of(recordings), restriction=late)
    until(lambda: query(kept).fetchone() == (0,))  # the server sees that a connection has ended
    assert of_session() == before


def test_the_connection_of_the_user_is_left_alone(page: Page, recordings: Any) -> None:
    """Its transaction is neither seen nor ended, and its tables are not asked for."""
    connection = recordings.connection
    connection.dependencies.clear()
    with connection.transaction:
        recordings.insert1({"recording_id": 77, "waveform": WAVEFORM})
        reply = page.fine("rows", table=name_of(recordings))
        assert len(reply.json["rows"]) == 10
        page.fine("table", table=name_of(recordings))
        page.refused(400, "rows", table=name_of(recordings), restriction="recording_id = 'x' + (")
        assert connection.in_transaction
    assert not connection.dependencies._loaded
    assert len(page.fine("rows", table=name_of(recordings)).json["rows"]) == 11


def test_a_locked_table_holds_nothing_else_up(
    page: Page, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_postgresql = recordings.connection.adapter.backend == "postgresql"
    lock, unlock = (
        ("BEGIN; LOCK TABLE {}", "ROLLBACK")
        if in_postgresql
        else ("LOCK TABLES {} WRITE", "UNLOCK TABLES")
    )
    with recordings.connection._conn.cursor() as cursor:
        cursor.execute(lock.format(recordings.full_table_name))
        try:
            with monkeypatch.context() as patched:
                patched.setattr(database_module, "LIMIT_S", 1)
                page.refused(413, "rows", table=name_of(recordings))
            found = page.fine("schemas").json["schemas"]  # else it would be refused as well
        finally:
            cursor.execute(unlock)
    assert recordings.database in {each["name"] for each in found}


def test_schemas_are_two_queries(
    page: Page, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tables there are."""
    queries = []

    def counted(session: Any, query: str, *values: Any) -> Any:
        queries.append(query)
        return select(session, query, *values)

    monkeypatch.setattr(listing_module, "select", counted)
    for n in range(3):
        table("n : int32\n---\nwaveform : <npy@>", f"Table{n}")
    page.fine("schemas")
    assert len(queries) == 2


def test_each_request_has_a_connection(database: Any) -> None:
    own = Database(database.connection)
    with own.session() as first, own.session() as second:
        assert first._conn is not second._conn
        assert first._conn is not database.connection._conn
    own.close()


def test_few_connections_serve_many_requests(page: Page, recordings: Any) -> None:
    for _ in range(20):
        page.fine("rows", table=name_of(recordings))
    assert len(page.server.app.database._unused) == 1


def test_a_lost_connection_is_made_anew(page: Page, recordings: Any) -> None:
    page.fine("rows", table=name_of(recordings))
    [own] = page.server.app.database._unused
    kill(recordings.connection, own)
    assert len(page.fine("rows", table=name_of(recordings)).json["rows"]) == 10


def kill(connection: Any, other: Any) -> None:
    """End the session of another connection."""
    with connection._conn.cursor() as cursor:
        if connection.adapter.backend == "postgresql":
            cursor.execute(f"SELECT pg_terminate_backend({other._conn.get_backend_pid()})")
        else:
            cursor.execute(f"KILL {other._conn.thread_id()}")


def test_no_other_session_takes_the_place_of_a_lost_one(database: Any) -> None:
    """As DataJoint reconnects: that one could write, for any time."""
    own = Database(database.connection)

    def lose() -> None:
        with own.session() as session:
            kill(database.connection, session)
            session.query("SELECT 1")

    with pytest.raises(Refused) as refused:
        lose()
    assert refused.value.status == 502
    assert not own._unused


NOT_THERE = [
    "",
    "no_such",
    "no_such.table",
    "mysql.user",
    "MYSQL.user",
    "pg_catalog.pg_authid",
    "information_schema.tables",
    'a"; DROP TABLE x; --.b',
    "a`.`b.c",
    "a.b%s",
    "a'.b",
    "{schema}.~lineage",
    "{schema}.no_such",
    "{schema}.recording WHERE 1=1",
    "x" * 5000 + ".y",
]


def test_only_tables_of_the_lab_are_there(page: Page, recordings: Any) -> None:
    for given in NOT_THERE:
        with case(given):
            name = given.replace("{schema}", recordings.database)
            for path in ("table", "rows"):
                page.refused(404, path, table=name)
            key = '{"recording_id": 1}'
            page.refused(404, "array", table=name, attribute="waveform", key=key)


def test_a_name_of_an_attribute_is_no_sql(page: Page, recordings: Any) -> None:
    """Who may make a table makes no statements for the account of who looks at it."""
    mark = recordings.connection.adapter.quote_identifier("")[0]
    with recordings.connection._conn.cursor() as cursor:
        evil = f"{mark}x{mark * 2}; COMMIT; DROP TABLE y; --{mark}"
        cursor.execute(f"ALTER TABLE {recordings.full_table_name} ADD {evil} INT")
    named = {"table": name_of(recordings), "attribute": "waveform", "key": '{"recording_id": 1}'}
    for path in ("table", "rows", "array"):
        assert "whose name" in page.refused(400, path, **named)


def test_an_array_is_named_by_its_whole_key(page: Page, recordings: Any) -> None:
    name = name_of(recordings)
    for key in ("", "{", "[]", "1", "{}", '{"recording_id": null}', '{"recording_id": 1, "x": 2}'):
        page.refused(400, "array", table=name, attribute="waveform", key=key)
    for attribute in ("recording_id", "no_such", "", "waveform--"):
        page.refused(404, "array", table=name, attribute=attribute, key='{"recording_id": 1}')
    page.refused(404, "array", table=name, attribute="waveform", key='{"recording_id": 99}')
    page.refused(400, "array", table=name, attribute="waveform", key='{"recording_id": "1 OR 1=1"}')


def test_a_server_that_is_gone_is_told(postgresql: Any, recordings: Any) -> None:
    with served(recordings.connection) as page:
        database = page.server.app.database
        info = database._user.conn_info
        before = info["host"]
        info["host"] = "/nowhere"
        try:
            message = page.refused(502, "schemas")
        finally:
            info["host"] = before
    assert "cannot be reached" in message


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_numbers_that_are_none_are_told_as_text(page: Page, table: MakeTable) -> None:
    """MySQL has none."""
    odd = table("n : int32\n---\nx : float64", "Odd")
    odd.insert([{"n": 1, "x": math.nan}, {"n": 2, "x": math.inf}])
    rows = page.fine("rows", table=name_of(odd)).json["rows"]
    assert [str(row[1]).lower() for row in rows] in (["nan", "inf"], ["nan", "infinity"])


@pytest.mark.slow
def test_a_million_rows_are_paged_quickly(page: Page, table: MakeTable, database: Any) -> None:
    many = table("subject : int32\nn : int32\n---\nx = 0 : int32", "Many")
    name = many.full_table_name
    digits = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {d}" for d in range(1, 10)) + ")"
    series = (
        "SELECT n / 100000, n % 100000 FROM generate_series(0, 999999) AS n"
        if database.connection.adapter.backend == "postgresql"
        else "SELECT a.d, (((b.d * 10 + c.d) * 10 + e.d) * 10 + f.d) * 10 + g.d FROM "
        + ", ".join(f"{digits} {name}" for name in "abcefg")
    )
    with database.connection._conn.cursor() as cursor:
        cursor.execute(f"INSERT INTO {name} (subject, n) {series}")
    assert len(many()) == 1_000_000
    took = []
    for more in (
        {},
        {"after": json.dumps({"subject": 9, "n": 99_000})},
        {"after": json.dumps({"subject": 4, "n": 50_000}), "order": "-subject"},
        {"restriction": "subject = 7 AND n > 5000"},
    ):
        started = time.monotonic()
        assert len(page.fine("rows", table=name_of(many), **more).json["rows"]) == 100
        took.append(time.monotonic() - started)
    assert max(took) < 0.5
    assert len(page.fine("rows", table=name_of(many), limit=5000).json["rows"]) == 1000
    assert page.fine("table", table=name_of(many)).json["rows"] == 1_000_000


def test_few_headings_and_arrays_are_known(
    page: Page, recordings: Any, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_MAX_HEADINGS", 1)
    monkeypatch.setattr(arrays_module, "_KEPT", 2)
    app = page.server.app
    for n in range(1, 4):
        page.fine("rows", table=name_of(table("n : int32", f"Table{n}")))
        named = {"table": name_of(recordings), "attribute": "waveform"}
        page.fine("array", key=json.dumps({"recording_id": n}), **named)
        assert len(app._catalog._headings) <= 2
    assert len(app.arrays._known) == 2


def test_catalogs_forget_headings(
    database: Any, recordings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has changed is seen when a table is opened anew, or after a while."""
    with served(database.connection) as page:
        assert len(page.fine("rows", table=name_of(recordings)).json["rows"][0]) == 2
        with database.connection._conn.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {recordings.full_table_name} ADD x INT")
        assert len(page.fine("table", table=name_of(recordings)).json["attributes"]) == 3
        assert len(page.fine("rows", table=name_of(recordings)).json["rows"][0]) == 3
        with database.connection._conn.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {recordings.full_table_name} ADD y INT")
        monkeypatch.setattr(catalog_module, "_KEPT_S", 0)
        assert len(page.fine("rows", table=name_of(recordings)).json["rows"][0]) == 4
