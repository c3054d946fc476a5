"""`collect`, however the database server is set up, and whatever transactions it has."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest

import dj_npy
import dj_npy._upkeep.collect
from dj_npy._datajoint.catalog import Snapshot, snapshot
from dj_npy._datajoint.outcome import Session, Written
from dj_npy._datajoint.sessions import EVER_S, open_for_s
from dj_npy._stores import open_store
from dj_npy._upkeep.collect import _settled_snapshot
from tests.conftest import is_mariadb
from tests.support import warm
from tests.support.servers import files
from tests.upkeep.test_collect import paths

NOW = timedelta(0)
MYSQL = pytest.mark.parametrize("database", ["mariadb", "mysql"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@contextmanager
def server_with(database: Any, setting: str, value: str) -> Iterator[None]:
    """New sessions have it, not those that are open."""
    database.connection.query(f"SET GLOBAL {setting} = {value}")
    try:
        yield
    finally:
        database.connection.query(f"SET GLOBAL {setting} = DEFAULT")


@contextmanager
def mysql_session(database: Any) -> Iterator[Any]:
    port = database.connection.conn_info["port"]
    session = pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True)
    try:
        with session.cursor() as cursor:
            yield cursor
    finally:
        session.close()


@MYSQL
def test_a_limit_of_rows_hides_none(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path
) -> None:
    """Every query without a LIMIT ends after so many rows, and does not say so."""
    with server_with(database, "sql_select_limit", "1"):
        assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == len(orphans)
    assert files(store) == paths(rows)


@MYSQL
def test_a_limit_of_rows_takes_no_files_back(rows: Any, database: Any) -> None:
    """What has become of an insert is asked in its own session, with the limit that this has."""
    connection = database.connection
    store, table = open_store(database.config, "main"), rows.full_table_name
    written = [Written(store, path, table, "waveform", True) for path in paths(rows)]
    connection.query("SET SESSION sql_select_limit = 1")
    try:
        assert Session(connection).referenced(written) == set(written)
    finally:
        connection.query("SET SESSION sql_select_limit = DEFAULT")


@MYSQL
@pytest.mark.parametrize("kind", ["", "mediumtext"])
def test_what_is_longer_than_a_packet_keeps_its_file(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path, kind: str
) -> None:
    """Of such a JSON MySQL hands out an empty text, and MariaDB none; of a text MySQL, all."""
    name, before = rows.full_table_name, files(store)
    if kind:
        rows.connection.query(f"ALTER TABLE {name} MODIFY waveform {kind} COMMENT ':<npy@>:'")
    padded = {"path": min(paths(rows)), "more": "x" * (3 << 20)}
    with server_with(database, "max_allowed_packet", "64 << 20"), mysql_session(database) as cursor:
        cursor.execute(f"UPDATE {name} SET waveform = %s LIMIT 1", [json.dumps(padded)])
    is_told = not kind or is_mariadb(database)
    refused = pytest.raises(
        dj_npy.StoreError, match=r"recording.waveform .* max_allowed_packet"
    )  # fmt: skip
    with (
        server_with(database, "max_allowed_packet", "1 << 20"),
        refused if is_told else nullcontext(),
    ):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    with server_with(database, "max_allowed_packet", "64 << 20"):
        assert files(store) == (before if is_told else paths(rows))
        assert dj_npy.collect(schema, older_than=NOW, dry_run=False).live == len(paths(rows))
        assert files(store) == paths(rows)


@MYSQL
def test_ages_are_told_by_one_clock(rows: Any, database: Any) -> None:
    """`trx_started` is by the clock of the machine, `now()` by that of the session."""
    with (
        server_with(database, "time_zone", "'-10:00'"),
        snapshot(database.connection),
        snapshot(database.connection) as now,
    ):
        age_s = open_for_s(now)
        assert age_s is not None
        assert 0 <= age_s < 3600


@MYSQL
def test_a_list_of_transactions_that_is_out_of_date_is_not_believed(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The server does not read it anew while it is asked for again and again."""
    monkeypatch.setattr(dj_npy._datajoint.sessions, "_LISTED_WITHIN_S", 0.5)
    before, done = files(store), threading.Event()

    def watch() -> None:
        with mysql_session(database) as cursor:
            while not done.is_set():
                cursor.execute("SELECT count(*) FROM information_schema.innodb_trx")
                time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        time.sleep(0.5)
        with pytest.raises(dj_npy.StoreError, match="out of date"):
            dj_npy.collect(schema, older_than=NOW, dry_run=False)
    finally:
        done.set()
        watching.join()
    assert files(store) == before
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == len(orphans)


def test_a_transaction_that_ends_while_it_is_asked_for_is_seen(
    rows: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not open any more, and a moment from before does not show its row."""
    path = '{"path": "late.npy"}'

    def ends(now: Snapshot) -> float | None:
        assert "late.npy" not in now.references()  # so its moment is before the end
        rows.connection.query(f"INSERT INTO {rows.full_table_name} VALUES (99, %s)", args=[path])
        monkeypatch.setattr(dj_npy._upkeep.collect, "open_for_s", open_for_s)
        return open_for_s(now)

    monkeypatch.setattr(dj_npy._upkeep.collect, "open_for_s", ends)
    with _settled_snapshot(database.connection, timedelta(days=1)) as now:
        assert "late.npy" in now.references()
    rows.connection.query(f"DELETE FROM {rows.full_table_name} WHERE recording_id = 99")


@MYSQL
def test_a_transaction_that_is_without_a_session_for_a_moment_has_ended(
    rows: Any, database: Any
) -> None:
    name = f"x{time.time_ns()}"
    with mysql_session(database) as cursor:
        cursor.execute(f"XA START '{name}'")
        cursor.execute(f"INSERT INTO {rows.full_table_name} VALUES (99, %s)", ['{"path": "x"}'])
        cursor.execute(f"XA END '{name}'")
        cursor.execute(f"XA PREPARE '{name}'")
    rollback = f"XA ROLLBACK '{name}'"
    ending = threading.Timer(0.5, lambda: database.connection.query(rollback))
    with snapshot(database.connection) as now:
        ending.start()
        age_s = open_for_s(now)
    ending.join()
    assert age_s is not None
    assert age_s < EVER_S


@MYSQL
def test_a_transaction_that_was_prepared_may_be_of_any_age(
    rows: Any, orphans: set[str], schema: Any, database: Any, store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After a restart the server takes it for one that has begun then."""
    monkeypatch.setattr(dj_npy._upkeep.collect, "_WAIT_FOR_COPIES_S", 0.5)
    before, name = files(store), f"x{time.time_ns()}"
    with mysql_session(database) as cursor:
        cursor.execute(f"XA START '{name}'")
        cursor.execute(f"INSERT INTO {rows.full_table_name} VALUES (99, %s)", ['{"path": "x"}'])
        cursor.execute(f"XA END '{name}'")
        cursor.execute(f"XA PREPARE '{name}'")
    try:
        with snapshot(database.connection) as now:
            assert open_for_s(now) == EVER_S
        with pytest.raises(dj_npy.StoreError, match="is open for"):
            dj_npy.collect(schema, dry_run=False)
        with pytest.raises(dj_npy.StoreError, match="was prepared"):
            dj_npy._upkeep.collect._wait_for_old_transactions(
                database.connection, timedelta(days=1)
            )
    finally:
        database.connection.query(f"XA ROLLBACK '{name}'")
    assert files(store) == before


PREPARED = """
import os, sys
os.environ["DJ_IGNORE_CONFIG_FILE"] = "true"
import datajoint as dj, dj_npy, numpy as np, psycopg2
from datetime import timedelta
place = dj_npy.embedded.start(sys.argv[1])
session = psycopg2.connect(host=place.host, user="postgres", dbname="postgres")
cursor = session.cursor()
cursor.execute("SHOW max_prepared_transactions")
if cursor.fetchone() == ("0",):
    session.rollback()
    session.autocommit = True
    cursor.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
    sys.exit()
dj.config["safemode"] = False
schema = dj.Schema("lab")
@schema
class Recording(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@>"
Recording.insert([(n, np.arange(n)) for n in range(4)])
cursor.execute("CREATE TABLE lab.copied AS SELECT * FROM lab.recording LIMIT 0")
session.commit()
cursor.execute("INSERT INTO lab.copied SELECT * FROM lab.recording WHERE id = 1")
cursor.execute("PREPARE TRANSACTION 'copying'")
(Recording & "id = 1").delete()
session.rollback()
try:
    dj_npy.collect(schema, older_than=timedelta(0), dry_run=False)
except dj_npy.StoreError as error:
    print(error)
session.autocommit = True
cursor.execute("COMMIT PREPARED 'copying'")
cursor.execute("SELECT waveform ->> 'path' FROM lab.copied")
print("there:", (place.store / cursor.fetchone()[0]).exists())
"""


@pytest.mark.slow
def test_a_transaction_that_was_prepared_has_no_session(session_folder: Path) -> None:
    for _ in range(2):  # it is to be restarted in between
        said = warm.output("-c", PREPARED, str(session_folder / "prepared"))
    assert "was prepared" in said
    assert "there: True" in said


@POSTGRESQL
def test_a_json_within_another_type_counts(
    rows: Any, schema: Any, database: Any, store: Path
) -> None:
    name, query = schema.database, database.connection.query
    query(f'CREATE TYPE "{name}".pair AS (n int, value jsonb)')
    query(f'CREATE TABLE "{name}".copied (pairs "{name}".pair[])')
    query(
        f'INSERT INTO "{name}".copied SELECT ARRAY[(1, waveform::jsonb)::"{name}".pair] '
        f"FROM {rows.full_table_name}"
    )
    before = files(store)
    rows.delete_quick()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9).removed == 0
    assert files(store) == before


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_former_row_of_a_versioned_table_counts(
    rows: Any, schema: Any, database: Any, store: Path
) -> None:
    assert is_mariadb(database)
    database.connection.query(f"ALTER TABLE {rows.full_table_name} ADD SYSTEM VERSIONING")
    before = files(store)
    (rows & "recording_id < 3").delete(prompt=False)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 0
    assert files(store) == before


# --- columns that are no JSON any more ----------------------------------------------------------


def test_a_column_that_was_altered_to_text_is_read(
    rows: Any, orphans: set[str], schema: Any, store: Path
) -> None:
    """Inserts and fetches work as before."""
    name, query = rows.full_table_name, rows.connection.query
    if rows.connection.adapter.backend == "postgresql":
        query(f"ALTER TABLE {name} ALTER COLUMN waveform TYPE text")
    else:
        query(f"ALTER TABLE {name} MODIFY waveform text COMMENT ':<npy@>:'")
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == len(orphans)
    assert files(store) == paths(rows)


@pytest.mark.parametrize("kind", ["text", "varchar(900)"])
def test_what_was_copied_into_a_text_is_a_reference(
    rows: Any, schema: Any, store: Path, kind: str
) -> None:
    query, there = rows.connection.query, files(store)
    quote = rows.connection.adapter.quote_identifier
    kept = f"{quote(schema.database)}.{quote('kept')}"
    query(f"CREATE TABLE {kept} (n int, w {kind})")
    query(f"INSERT INTO {kept} SELECT recording_id, waveform FROM {rows.full_table_name}")
    (rows & "recording_id > 1").delete(prompt=False)
    dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9)
    assert files(store) == there


@MYSQL
def test_a_schema_that_is_called_as_one_of_the_server_s_but_for_case(
    rows: Any, database: Any, schema: Any, store: Path
) -> None:
    """Names of schemas differ by case there, and MariaDB compared them without."""
    query, there = rows.connection.query, files(store)
    query("CREATE DATABASE `Sys`")
    try:
        query("CREATE TABLE `Sys`.kept (n int, w json)")
        query(f"INSERT INTO `Sys`.kept SELECT recording_id, waveform FROM {rows.full_table_name}")
        (rows & "recording_id > 1").delete(prompt=False)
        dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9)
    finally:
        query("DROP DATABASE `Sys`")
    assert files(store) == there


@POSTGRESQL
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text[]", "ARRAY[waveform::text]"),
        ("jsonb[]", "ARRAY[waveform]"),
    ],
)
def test_what_was_copied_into_another_kind_of_text(
    rows: Any, schema: Any, store: Path, kind: str, value: str
) -> None:
    query, there = rows.connection.query, files(store)
    query(f'CREATE TABLE "{schema.database}".kept (w {kind})')
    query(f'INSERT INTO "{schema.database}".kept SELECT {value} FROM {rows.full_table_name}')
    (rows & "recording_id > 1").delete(prompt=False)
    dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=9)
    assert files(store) == there


# --- tables that seem empty, or not to be there -------------------------------------------------


@POSTGRESQL
@pytest.mark.parametrize(
    "how", ["ALTER TABLE {} ALTER COLUMN recording_id TYPE bigint", "TRUNCATE {}"]
)
def test_a_table_that_was_rewritten_after_a_snapshot_is_told(rows: Any, how: str) -> None:
    """In the snapshot it is empty, whoever had looked at it before."""
    with snapshot(rows.connection) as now:
        assert list(now.select("SELECT 1")) == [(1,)]  # it is made by the first query
        rows.connection.query(how.format(rows.full_table_name))
        with pytest.raises(dj_npy.StoreError, match=r"recording was rewritten while rows were"):
            list(now.references())
    with snapshot(rows.connection) as now:
        found = {path for path in now.references() if rows.database in path}
    assert found == paths(rows)


@MYSQL
def test_a_table_that_cannot_be_opened_is_not_taken_for_gone(
    rows: Any, orphans: set[str], database: Any, schema: Any, store: Path
) -> None:
    """MariaDB leaves it out of information_schema, as one that it cannot lock in time."""
    if not is_mariadb(database):
        return
    query, before = rows.connection.query, files(store)
    query(f"CREATE TABLE `{schema.database}`.damaged (n int) ENGINE=MyISAM")
    [[folder]] = query("SELECT @@datadir").fetchall()
    query("FLUSH TABLES")
    (Path(folder) / schema.database / "damaged.frm").write_bytes(b"nothing of the kind")
    try:
        with pytest.raises(dj_npy.StoreError, match="does not tell of all tables"):
            dj_npy.collect(schema, older_than=NOW, dry_run=False)
        assert files(store) == before
    finally:
        for file in (Path(folder) / schema.database).glob("damaged.*"):
            file.unlink()


def test_a_transaction_that_began_at_a_later_time_is_of_any_age(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No clock of a server can be set back here: this is what it would say of one."""
    with snapshot(rows.connection) as now:
        monkeypatch.setattr(dj_npy._datajoint.sessions, "_transactions", lambda *_: [(-5.0,)])
        assert open_for_s(now) == EVER_S
