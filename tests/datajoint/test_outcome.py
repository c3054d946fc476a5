"""Exceptions that are not the database's, at any moment: no row loses its file."""

import ctypes
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

import datajoint as dj
import numpy as np
import psycopg2
import pymysql
import pytest
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from dj_npy._array.arraylike import as_scalar
from dj_npy._datajoint.catalog import another_session
from dj_npy._datajoint.context import bulk, current, row_key, witness
from dj_npy._datajoint.grants import sees_triggers
from tests.conftest import instance_of
from tests.datajoint.test_bulk import WAVEFORM
from tests.support.processes import reconnect, reconnect_if_lost, wait_until_idle
from tests.support.servers import files

MakeTable = Callable[..., Any]
SLOW_S, ALARM_S = 0.4, 0.2
DEFINITION = "id : int32\n---\nn = null : int32\nwaveform = null : <npy@>"
SECONDS = float(os.environ.get("DJ_NPY_TEST_EXCEPTIONS", "2"))


class TooLongError(Exception):
    """What a time limit raises."""


@pytest.fixture
def numbered(table: MakeTable) -> Any:
    return table(DEFINITION, "Numbered")()


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "n": 0, "waveform": WAVEFORM + number, **more}


def plainly(table: Any, rows: list[dict[str, Any]]) -> None:
    table.insert(rows)


def is_postgresql(table: Any) -> bool:
    return bool(table.connection.adapter.backend == "postgresql")


def make_slow(table: Any, event: str = "INSERT") -> None:
    """Have each row take its time, within the server."""
    query, name = table.connection.query, table.full_table_name
    if is_postgresql(table):
        schema = table.adapter.quote_identifier(table.database)
        query(
            f"CREATE FUNCTION {schema}.slow() RETURNS trigger AS "
            f"'BEGIN PERFORM pg_sleep({SLOW_S}); RETURN NEW; END' LANGUAGE plpgsql"
        )
        query(
            f"CREATE TRIGGER slow AFTER {event} ON {name} FOR EACH ROW "
            f"EXECUTE FUNCTION {schema}.slow()"
        )
    else:
        query(
            f"CREATE TRIGGER `{table.database}`.slow AFTER {event} ON {name} FOR EACH ROW "
            f"SET @slept = SLEEP({SLOW_S})"
        )


@contextmanager
def alarm(
    after_s: float, error: BaseException | type[BaseException], anywhere: bool = False
) -> Iterator[None]:
    """Have a signal handler raise an error once: in a query, however slow the machine is."""

    def ring(_: int, frame: FrameType | None) -> None:
        if not anywhere and not is_in_query(frame):
            signal.setitimer(signal.ITIMER_REAL, after_s / 10)
        else:
            raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_in_query(frame: FrameType | None) -> bool:
    """Whether a row is being written; others that an insert makes take no time."""
    while frame and frame.f_code is not dj.Connection._execute_query.__code__:
        frame = frame.f_back
    return frame is not None and not frame.f_locals["query"].lstrip().upper().startswith("SELECT")


def settled(table: Any) -> list[dict[str, Any]]:
    """Wait until no session is at work any more, and return the rows."""
    reconnect(table.connection)
    wait_until_idle(table.connection, 2 * SLOW_S)
    return list(table.to_dicts())


def assert_no_row_without_its_file(table: Any) -> int:
    rows = settled(table)
    for each in rows:
        if each["waveform"] is not None:
            each["waveform"].verify()
    return len(rows)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: TooLongError("too long"),
    "timeout": lambda: TimeoutError("too long"),
    "datajoint's": lambda: DuplicateError("said the user"),
    "psycopg's": lambda: psycopg2.errors.UniqueViolation("said the user"),
    "pymysql's": lambda: pymysql.err.IntegrityError(1062, "said the user"),
    "interrupt": KeyboardInterrupt,
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
def test_an_alarm_while_the_server_is_at_work(
    numbered: Any, store: Path, error: str, insert: Any
) -> None:
    make_slow(numbered)
    with suppress(BaseException), alarm(ALARM_S, ERRORS[error]()):
        insert(numbered, [row(1)])
    assert assert_no_row_without_its_file(numbered) == 1
    assert len(files(store)) == 1


@pytest.mark.parametrize("error", ["exception", "datajoint's", "interrupt"])
def test_an_alarm_within_a_transaction_that_is_committed(
    numbered: Any, store: Path, error: str
) -> None:
    make_slow(numbered)
    connection = numbered.connection
    connection.start_transaction()
    with suppress(BaseException), alarm(ALARM_S, ERRORS[error]()):
        numbered.insert1(row(1))
    with suppress(Exception):  # where the client has hung up, it is rolled back
        connection.commit_transaction()
    rows = assert_no_row_without_its_file(numbered)
    assert rows == (1 if is_postgresql(numbered) else 0)
    # On MySQL the trigger that makes it slow might have put the row elsewhere.
    assert len(files(store)) == 1


def test_an_alarm_while_an_update_is_at_work(numbered: Any, store: Path) -> None:
    numbered.insert1(row(1))
    make_slow(numbered, "UPDATE")
    with pytest.raises(TooLongError), alarm(ALARM_S, TooLongError()):
        numbered.update1({"id": 1, "waveform": WAVEFORM + 7})
    [found] = settled(numbered)
    found["waveform"].verify()
    np.testing.assert_array_equal(found["waveform"].load(), WAVEFORM + 7)


def test_a_handled_refusal_is_not_taken_for_that_of_the_next_statement(
    numbered: Any, store: Path
) -> None:
    """The exception of a fallback has the refusal of the first try in its context."""
    numbered.insert1(row(1))
    make_slow(numbered)
    with suppress(TooLongError):
        try:
            numbered.insert1(row(1))
        except DuplicateError:
            with alarm(ALARM_S, TooLongError()):
                numbered.insert1(row(2))
    assert assert_no_row_without_its_file(numbered) == 2


def test_an_exception_that_is_used_again_brings_no_verdict_along(numbered: Any) -> None:
    error = DuplicateError("a time limit's, always the same one")
    numbered.insert1(row(1))
    with suppress(DuplicateError):
        try:
            numbered.insert1(row(1))
        except DuplicateError:
            raise error  # noqa: B904
    assert error.__context__ is not None
    make_slow(numbered)
    with suppress(DuplicateError), alarm(ALARM_S, error):
        numbered.insert1(row(2))
    assert assert_no_row_without_its_file(numbered) == 2


# Refusals are taken back


@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
@pytest.mark.parametrize("within", [False, True])
def test_what_is_refused_is_taken_back(
    numbered: Any, store: Path, insert: Any, within: bool
) -> None:
    numbered.insert1(row(1))
    before = files(store)
    for rows in ([row(1)], [row(2), row(3), row(1)], [row(4, n="no number")]):
        if within:
            with pytest.raises(Exception), numbered.connection.transaction:  # noqa: B017, PT011
                insert(numbered, rows)
        else:
            with pytest.raises(Exception):  # noqa: B017, PT011
                insert(numbered, rows)
        assert files(store) == before


def test_a_refusal_asks_no_walk_over_the_table(
    numbered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered.insert1(row(1))
    asked = []
    monkeypatch.setattr(
        "dj_npy._datajoint.outcome.Session.referenced", lambda _, files: asked.append(files)
    )
    with pytest.raises(DuplicateError):
        numbered.insert1(row(1))
    assert not asked


def test_an_update_that_is_refused_is_taken_back(numbered: Any, store: Path) -> None:
    numbered.insert1(row(1))
    before = files(store)
    for update in ({"n": "no number"}, {"n": 1 << 40}):
        for _ in range(3):
            with pytest.raises(Exception):  # noqa: B017, PT011
                numbered.update1({"id": 1, "waveform": WAVEFORM, **update})
            assert files(store) == before
    with pytest.raises(DataJointError):
        numbered.update1({"id": 1, "waveform": [1]})
    assert files(store) == before
    numbered.update1({"id": 1, "waveform": WAVEFORM + 3})
    (numbered & "id=1").fetch1("waveform").verify()


def test_a_table_that_keeps_the_first_of_several_rows(numbered: Any, store: Path) -> None:
    """MyISAM inserts row after row."""
    if is_postgresql(numbered):
        return
    numbered.insert1(row(3))
    numbered.connection.query(f"ALTER TABLE {numbered.full_table_name} ENGINE=MyISAM")
    with pytest.raises(DuplicateError):
        numbered.insert([row(1), row(2), row(3), row(4)])
    assert assert_no_row_without_its_file(numbered) == 3


@pytest.mark.parametrize("within", [False, True])
def test_a_table_that_keeps_the_first_of_several_rows_of_which_one_has_an_array(
    numbered: Any, within: bool
) -> None:
    if is_postgresql(numbered):
        return
    myisam = of_myisam(numbered)
    myisam.insert1(row(3))
    with suppress(DuplicateError), myisam.connection.transaction if within else nullcontext():
        myisam.insert([row(1), row(3, waveform=None)])
    assert assert_no_row_without_its_file(myisam) == 2


def test_a_table_that_keeps_its_rows_when_a_transaction_is_rolled_back(numbered: Any) -> None:
    if is_postgresql(numbered):
        return
    myisam = of_myisam(numbered)
    make_slow(myisam)
    myisam.insert1(row(1))  # and the heading is known
    connection = myisam.connection
    connection.start_transaction()
    with pytest.raises(TooLongError), alarm(ALARM_S, TooLongError()):
        myisam.insert1(row(2))
    assert assert_no_row_without_its_file(myisam) == 2


def of_myisam(table: Any) -> Any:
    """Return a table as a process meets it to which somebody has given MyISAM's engine."""
    table.connection.query(f"ALTER TABLE {table.full_table_name} ENGINE=MyISAM")
    return dj.FreeTable(table.connection, table.full_table_name)


# Codecs that have ours write, and keep what it returns in a form of their own


class Pair(dj.Codec):
    """Two arrays in one attribute."""

    name = "test_pair"

    def get_dtype(self, is_store: bool) -> str:
        return "json"

    def encode(
        self, value: Any, *, key: Any = None, context: Any = None, store_name: Any = None
    ) -> Any:
        npy = dj_npy.NpyCodec()
        return [npy.encode(each, key=key, context=context, store_name=store_name) for each in value]

    def decode(self, stored: Any, *, key: Any = None, **_: Any) -> Any:
        return stored


class Versioned(dj_npy.NpyCodec):
    name = "test_versioned"

    def encode(
        self, value: Any, *, key: Any = None, context: Any = None, store_name: Any = None
    ) -> Any:
        described = super().encode(value, key=key, context=context, store_name=store_name)
        return {"version": 1, "array": described}

    def decode(self, stored: Any, **_: Any) -> Any:
        return stored


CODECS: dict[str, Any] = {"pair": (Pair, (WAVEFORM, WAVEFORM)), "versioned": (Versioned, WAVEFORM)}


@pytest.mark.parametrize("name", CODECS)
def test_rows_that_another_codec_describes_are_not_taken_for_none(
    table: MakeTable, store: Path, name: str
) -> None:
    codec, value = CODECS[name]
    wrapped = table(f"id : int32\n---\nvalue : <{codec.name}@>", "Wrapped")()
    dj_npy.insert(wrapped, [{"id": 1, "value": value}], skip_duplicates=True)
    assert len(files(store)) == (len(value) if name == "pair" else 1)
    make_slow(wrapped)
    with suppress(TooLongError), alarm(ALARM_S, TooLongError()):
        wrapped.insert1({"id": 2, "value": value})
    rows = settled(wrapped)
    assert len(rows) == 2
    for each in rows:
        described = each["value"] if name == "pair" else [each["value"]["array"]]
        assert all((store / one["path"]).exists() for one in described)


# Transactions


def test_a_transaction_that_is_rolled_back_takes_its_files_along(
    numbered: Any, store: Path
) -> None:
    numbered.insert1(row(1))
    before = files(store)

    def fail() -> None:
        with numbered.connection.transaction:
            numbered.insert([row(2), row(3)])
            dj_npy.insert(numbered, [row(n) for n in range(4, 9)])
            numbered.update1({"id": 1, "waveform": WAVEFORM})
            raise TooLongError

    for _ in range(3):
        with pytest.raises(TooLongError):
            fail()
        assert files(store) == before
    assert assert_no_row_without_its_file(numbered) == 1


def test_a_transaction_that_is_committed_keeps_its_files(numbered: Any, store: Path) -> None:
    with numbered.connection.transaction:
        numbered.insert([row(2), row(3)])
    numbered.connection.cancel_transaction()
    assert assert_no_row_without_its_file(numbered) == len(files(store)) == 2


@pytest.mark.parametrize(
    "statements",
    [
        ["COMMIT"],
        ["COMMIT", "{begin}"],
        ["COMMIT; {begin}"],
        ["  /* done */ commit", "{begin}"],
        ["SAVEPOINT here", "ROLLBACK TO SAVEPOINT here"],
        ["CREATE TABLE {schema}.unrelated (id int)"],
    ],
)
def test_what_the_user_did_to_a_transaction_is_not_guessed_at(
    numbered: Any, table: MakeTable, statements: list[str]
) -> None:
    """Committed by hand, copied, deleted at its first place, and then rolled back."""
    other = table(numbered.definition, "Other")
    connection = numbered.connection
    begin = connection.adapter.start_transaction_sql()
    schema = connection.adapter.quote_identifier(numbered.database)
    connection.start_transaction()
    numbered.insert1(row(1))
    for statement in statements:
        try:
            connection.query(statement.format(begin=begin, schema=schema))
        except Exception:
            assert ";" in statement  # PyMySQL takes one at a time
            connection.cancel_transaction()
            return
        other.insert(numbered, skip_duplicates=True)
        numbered.delete_quick()
    connection.cancel_transaction()
    assert_no_row_without_its_file(numbered)
    assert_no_row_without_its_file(other)


COPIES = {
    "rows": ["INSERT INTO {copies} SELECT * FROM {rows}"],
    "values": ["INSERT INTO {copies} (id, waveform) VALUES (1, '{value}')"],
    "a variable": [
        "SELECT waveform INTO @w FROM {rows}",
        "INSERT INTO {copies} (id, waveform) VALUES (1, @w)",
    ],
    "an update": [
        "INSERT INTO {copies} (id) VALUES (1)",
        "UPDATE {copies} c, {rows} r SET c.waveform = r.waveform",
    ],
    "a function": ["SELECT {schema}.copy()"],
    "another table's trigger": ["DELETE FROM {schema}.going"],
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_that_a_rollback_leaves(numbered: Any, table: MakeTable, how: str) -> None:
    if is_postgresql(numbered):
        return
    copies = of_myisam(table(numbered.definition, "Copies")())
    schema, query = f"`{numbered.database}`", numbered.connection.query
    names = {"copies": copies.full_table_name, "rows": numbered.full_table_name, "schema": schema}
    copy = f"INSERT INTO {names['copies']} SELECT * FROM {names['rows']}"
    query("SET GLOBAL log_bin_trust_function_creators = 1")
    query(
        f"CREATE FUNCTION {schema}.copy() RETURNS int MODIFIES SQL DATA BEGIN {copy}; RETURN 1; END"
    )
    query(f"CREATE TABLE {schema}.going (n int)")
    query(f"INSERT INTO {schema}.going VALUES (1)")
    query(f"CREATE TRIGGER {schema}.go AFTER DELETE ON {schema}.going FOR EACH ROW {copy}")

    def fail() -> None:
        with numbered.connection.transaction:
            numbered.insert1(row(1))
            [(value,)] = query(f"SELECT waveform FROM {names['rows']}").fetchall()
            for statement in COPIES[how]:
                query(statement.format(**names, value=value)).fetchall()
            raise TooLongError

    with pytest.raises(TooLongError):
        fail()
    assert assert_no_row_without_its_file(copies) == 1


def test_a_transaction_within_a_transaction(numbered: Any, store: Path) -> None:
    """DataJoint refuses the inner one by rolling back the outer one, and goes on without."""
    connection = numbered.connection
    with connection.transaction:
        numbered.insert1(row(1))
        with pytest.raises(DataJointError), connection.transaction:
            pass
        numbered.insert1(row(2))
    assert [each["id"] for each in settled(numbered)] == [2]
    assert_no_row_without_its_file(numbered)
    assert len(files(store)) == 1


def test_a_make_that_fails_five_times_leaves_nothing(
    schema: Any, numbered: Any, store: Path
) -> None:
    numbered.insert1(row(1))
    before = files(store)

    Numbered = type(numbered)  # noqa: F841

    @schema
    class Filtered(dj.Computed):
        definition = "-> Numbered\n---\nfiltered : <npy@>"

        def make(self, key: dict[str, Any]) -> None:
            self.insert1({**key, "filtered": WAVEFORM})
            raise TooLongError

    for _ in range(5):
        with pytest.raises(TooLongError):
            Filtered.populate()
        assert files(store) == before
    assert len(Filtered()) == 0


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_lock_that_the_server_gives_to_another(
    numbered: Any, store: Path, is_copied: bool
) -> None:
    """
    A deadlock rolls back the whole transaction of one; DataJoint then says so, too.

    Its own rollback no longer warns of a table that keeps its rows.
    """
    if is_postgresql(numbered):
        return
    numbered.insert([row(1), row(2)])
    copies = f"`{numbered.database}`.copies"
    numbered.connection.query(f"CREATE TABLE {copies} (w json) ENGINE = MyISAM")
    before = files(store)
    connection = numbered.connection
    info = connection.conn_info
    other = pymysql.connect(
        host=info["host"], port=info["port"], user=info["user"], password=info["passwd"]
    )
    name = numbered.full_table_name
    with other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(f"UPDATE {name} SET n = 5 WHERE id = 2")
        connection.start_transaction()
        numbered.insert1(row(3))
        if is_copied:
            connection.query(f"INSERT INTO {copies} SELECT waveform FROM {name} WHERE id = 3")
        numbered.update1({"id": 1, "n": 4})
        # The other one has changed more, so this one is the victim.
        if is_copied:
            cursor.execute(f"INSERT INTO {copies} VALUES ('1')")
        cursor.executemany(f"INSERT INTO {name} (id) VALUES (%s)", [(n,) for n in range(100, 400)])
        waiting = threading.Thread(
            target=lambda: cursor.execute(f"UPDATE {name} SET n = 5 WHERE id = 1")
        )
        waiting.start()
        time.sleep(0.3)
        with pytest.raises(Exception, match=r"(?i)deadlock"):
            numbered.update1({"id": 2, "waveform": WAVEFORM})
        waiting.join()
        other.rollback()
    connection.cancel_transaction()
    other.close()
    assert len(files(store) - before) == is_copied
    assert assert_no_row_without_its_file(numbered) == 2


@pytest.mark.parametrize(
    "before", ["nothing", "refused row", "refused row without an array", "note"]
)
@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
def test_a_transaction_with_a_refusal_that_is_rolled_back(
    numbered: Any, store: Path, insert: Any, before: str
) -> None:
    """On MariaDB a warning of an earlier statement stays, and is not of the rollback."""
    connection, name = numbered.connection, numbered.full_table_name
    numbered.insert1(row(1))
    with suppress(TooLongError, DuplicateError), connection.transaction:
        insert(numbered, [row(2)])
        if before == "note":
            value = "1" if is_postgresql(numbered) else "'1.4' + 0"  # which is rounded, and told
            connection.query(f"INSERT INTO {name} (id, n) VALUES (9, {value})")
        elif before != "nothing":
            insert(numbered, [row(1) if before == "refused row" else {"id": 1}])
        raise TooLongError
    assert len(files(store)) == assert_no_row_without_its_file(numbered) == 1


@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
def test_rows_that_are_made_by_deletions(numbered: Any, store: Path, insert: Any) -> None:
    """What is sent while the rows are made is not the insert itself."""

    def rows() -> Iterator[dict[str, Any]]:
        (numbered & "id = 1").delete_quick()
        yield row(1)
        yield row(2)

    numbered.insert([row(1), row(2)])
    before = files(store)
    with pytest.raises(DuplicateError):
        insert(numbered, rows())
    assert files(store) == before


# Sessions that cannot be believed


def test_an_answer_to_an_earlier_statement_is_no_refusal(numbered: Any) -> None:
    """An exception between a statement and its answer leaves that for the next one."""
    if is_postgresql(numbered):
        return
    numbered.insert1(row(2))  # and the heading is known
    session = numbered.connection._conn
    session._execute_command(3, "SELECT nonsense FROM nowhere")  # 3: COM_QUERY
    with pytest.raises(Exception):  # noqa: B017, PT011
        numbered.insert1(row(1))
    assert assert_no_row_without_its_file(numbered) == 2


def test_rows_that_are_hidden_from_this_account_are_not_taken_for_none(
    numbered: Any, schema: Any, store: Path
) -> None:
    if not is_postgresql(numbered):
        return
    query, name = numbered.connection.query, numbered.full_table_name
    role = f"writer_{os.getpid()}"
    query(f"CREATE ROLE {role}")
    query(f'GRANT USAGE ON SCHEMA "{schema.database}" TO {role}')
    query(f"GRANT SELECT, INSERT ON {name} TO {role}")
    query(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    query(f"CREATE POLICY writes ON {name} FOR INSERT TO {role} WITH CHECK (true)")
    make_slow(numbered)
    query(f"SET ROLE {role}")
    try:
        with pytest.raises(TooLongError), alarm(ALARM_S, TooLongError()):
            numbered.insert1(row(1))
    finally:
        query("RESET ROLE")
    assert assert_no_row_without_its_file(numbered) == len(files(store)) == 1
    query(f"DROP OWNED BY {role}")
    query(f"DROP ROLE {role}")


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_rows_that_a_trigger_puts_elsewhere_are_not_taken_for_none(
    numbered: Any, table: MakeTable, when: str
) -> None:
    if not is_postgresql(numbered):
        return
    elsewhere = table(numbered.definition, "Elsewhere")()
    query, schema = numbered.connection.query, numbered.database
    query(
        f'CREATE FUNCTION "{schema}".put() RETURNS trigger AS \'BEGIN '
        f"INSERT INTO {elsewhere.full_table_name} VALUES (NEW.*); "
        f"DELETE FROM {numbered.full_table_name} WHERE id = NEW.id; RETURN NULL; END' "
        f"LANGUAGE plpgsql"
    )
    query(
        f"CREATE TRIGGER put {when} INSERT ON {numbered.full_table_name} "
        f'FOR EACH ROW EXECUTE FUNCTION "{schema}".put()'
    )
    dj_npy.insert(numbered, [row(1), row(2)], skip_duplicates=True)
    assert len(numbered) == 0
    assert assert_no_row_without_its_file(elsewhere) == 2


@pytest.mark.parametrize("how", ["skipped", "interrupted"])
def test_a_question_that_is_refused_ends_no_transaction(
    numbered: Any, schema: Any, how: str
) -> None:
    """PostgreSQL would answer the COMMIT by a rollback, and not by an error."""
    if not is_postgresql(numbered):
        return
    connection, name = numbered.connection, numbered.full_table_name
    query = connection.query
    role = f"writer_{os.getpid()}"
    query(f"CREATE ROLE {role}")
    query(f'GRANT USAGE ON SCHEMA "{schema.database}" TO {role}')
    query(f"GRANT INSERT, SELECT (id) ON {name} TO {role}")
    if how == "interrupted":
        make_slow(numbered)
    query(f"SET ROLE {role}")
    try:
        with connection.transaction:
            numbered.insert1(row(1))
            if how == "skipped":
                dj_npy.insert(numbered, [row(2)], skip_duplicates=True)
            else:
                with pytest.raises(TooLongError), alarm(ALARM_S, TooLongError()):
                    numbered.insert1(row(2))
    finally:
        query("RESET ROLE")
    assert assert_no_row_without_its_file(numbered) == 2
    query(f"DROP OWNED BY {role}")
    query(f"DROP ROLE {role}")


def test_a_session_in_which_another_thread_is_at_work_is_not_lost(numbered: Any) -> None:
    if not is_postgresql(numbered):
        return
    make_slow(numbered)
    connection = numbered.connection
    numbered.heading.attributes  # noqa: B018

    def work() -> None:
        time.sleep(ALARM_S)
        with connection._conn.cursor() as cursor:
            cursor.execute(f"SELECT pg_sleep({2 * SLOW_S})")

    class LateError(TooLongError):
        def __init__(self) -> None:
            time.sleep(ALARM_S)

    connection.start_transaction()
    working = threading.Thread(target=work)
    working.start()
    with pytest.raises(LateError), alarm(ALARM_S, LateError):
        numbered.insert1(row(1))
    working.join()
    connection.commit_transaction()
    assert assert_no_row_without_its_file(numbered) == 1


def test_a_statement_that_is_sent_again_in_another_session(
    numbered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction was lost with the session: what is sent again is committed at once."""
    if not is_postgresql(numbered):
        return
    connection = numbered.connection
    original = connection.query

    def query(statement: str, *args: Any, **options: Any) -> Any:
        if not statement.startswith("INSERT"):
            return original(statement, *args, **options)
        reconnect(connection)
        original(statement, *args, **options)
        raise TooLongError

    connection.start_transaction()
    numbered.heading.attributes  # noqa: B018
    monkeypatch.setattr(connection, "query", query)
    with pytest.raises(TooLongError):
        numbered.insert1(row(1))
    assert assert_no_row_without_its_file(numbered) == 1


def test_a_child_that_leaves_the_generator_of_rows_takes_back_nothing(
    numbered: Any, store: Path
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield row(1)
        child = os.fork()
        if child == 0:
            raise SystemExit
        os.waitpid(child, 0)
        yield row(2)

    parent = os.getpid()
    try:
        numbered.insert(rows())
    except SystemExit:
        if os.getpid() != parent:
            os._exit(0)
        raise
    assert assert_no_row_without_its_file(numbered) == len(files(store)) == 2


# What an exception leaves behind

VARIABLES = (bulk, current, row_key, as_scalar, witness)


@contextmanager
def interrupted_once_set(number: int) -> Iterator[None]:
    """Raise just after a context variable has been set, before the next step is taken."""
    left = [number]

    def look(_: FrameType, event: str, function: Any) -> None:
        of = getattr(function, "__self__", None)
        if event == "c_return" and isinstance(of, ContextVar) and of in VARIABLES:
            left[0] -= function.__name__ == "set"
            if left[0] == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("number", range(1, 6))
def test_nothing_stays_set(numbered: Any, number: int) -> None:
    """What stays would be taken for a setting of the next insert, or add to this one's files."""
    numbered.insert1(row(0))
    uses: list[Callable[[], Any]] = [
        lambda: numbered.insert1(row(1)),
        lambda: dj_npy.insert(numbered, [row(2)], skip_duplicates=True),
        lambda: numbered.update1({"id": 0, "waveform": WAVEFORM + 1}),
        lambda: (numbered & "id = 0").fetch1("waveform"),
    ]
    before = [variable.get() for variable in VARIABLES]
    interrupted = 0
    for use in uses:
        try:
            with interrupted_once_set(number):
                use()
        except KeyboardInterrupt:
            interrupted += 1
        assert [variable.get() for variable in VARIABLES] == before
    assert interrupted >= (number <= 3)
    for each in settled(numbered):
        each["waveform"].verify()


# At random moments


@contextmanager
def thrown(after_s: float, error: type[BaseException]) -> Iterator[None]:
    """Have another thread raise an error in this one."""
    this = ctypes.c_ulong(threading.get_ident())
    done = threading.Event()

    def throw() -> None:
        if not done.wait(after_s):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(this, ctypes.py_object(error))

    thrower = threading.Thread(target=throw)
    thrower.start()
    try:
        yield
    finally:
        done.set()
        thrower.join()


# Between the opening of a file, or a socket, and the next instruction nobody can close it.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("how", ["alarm", "thrown"])
def test_exceptions_at_random_moments(numbered: Any, store: Path, how: str) -> None:
    """For as long as DJ_NPY_TEST_EXCEPTIONS says, in seconds."""
    chance, connection = random.Random(8), numbered.connection
    # CPython may deliver what is thrown to a thread that is just being started instead, and
    # `Thread.start` then waits for ever: python/cpython's, and to be had without this package.
    inserts = [plainly, dj_npy.insert] if how == "alarm" else [plainly]

    def use(number: int) -> None:
        rows = [row(10 * number + n) for n in range(chance.choice([1, 1, 3]))]
        insert = chance.choice(inserts)
        with connection.transaction if chance.random() < 0.3 else nullcontext():
            insert(numbered, rows)
        if chance.random() < 0.3:
            numbered.update1({"id": rows[0]["id"], "waveform": WAVEFORM})

    begun = time.monotonic()
    for number in range(10):
        use(number)
    typical_s = (time.monotonic() - begun) / 10
    tried = interrupted = 0
    while time.monotonic() < begun + SECONDS or (interrupted <= 4 and tried < 100):
        tried += 1
        after_s = chance.uniform(0, 1.3 * typical_s)
        error = chance.choice([*ERRORS.values()])
        try:
            with (
                alarm(after_s, error(), anywhere=True)
                if how == "alarm"
                else thrown(after_s, TooLongError)
            ):
                use(10 + tried)
        except BaseException:
            interrupted += 1
        with suppress(BaseException):  # one may still be on its way
            time.sleep(0.001)
        reconnect_if_lost(connection)
    rows = settled(numbered)
    for each in rows:
        each["waveform"].verify()
    orphans = len(files(store)) - len(rows)
    print(f"{tried} tried, {interrupted} interrupted, {len(rows)} rows, {orphans} orphans")
    assert interrupted > 4


# What a statement leaves outside its table, and what others do to its rows


def triggered(numbered: Any, table: MakeTable, engine: str = "InnoDB", when: str = "BEFORE") -> Any:
    """Have a trigger copy each row, duplicates too, to a table of an engine."""
    audit = table("n : int32\n---\nid : int32\nwaveform = null : <npy@>", "Audit")()
    query, schema = numbered.connection.query, numbered.database
    audit.heading.attributes  # noqa: B018
    query(f"ALTER TABLE {audit.full_table_name} ENGINE={engine}")
    query(f"ALTER TABLE {audit.full_table_name} MODIFY n int AUTO_INCREMENT")
    query(
        f"CREATE TRIGGER `{schema}`.copies {when} INSERT ON {numbered.full_table_name} "
        f"FOR EACH ROW INSERT INTO {audit.full_table_name} (id, waveform) "
        f"VALUES (NEW.id, NEW.waveform)"
    )
    return audit


def test_a_trigger_that_copies_a_duplicate(numbered: Any, table: MakeTable) -> None:
    if is_postgresql(numbered):  # where the same rules hold for any trigger, see above
        return
    audit = triggered(numbered, table)
    numbered.insert1(row(1))
    dj_npy.insert(numbered, [row(1), row(2)], skip_duplicates=True)
    assert assert_no_row_without_its_file(audit) == 3
    assert assert_no_row_without_its_file(numbered) == 2


@pytest.mark.parametrize("how", ["refused", "one refused", "rolled back", "lost", "updated"])
def test_a_trigger_into_a_table_that_keeps_its_rows(
    numbered: Any, table: MakeTable, how: str
) -> None:
    if is_postgresql(numbered):
        return
    numbered.insert1(row(1))
    audit = triggered(numbered, table, "MyISAM")
    connection = numbered.connection
    with suppress(Exception):
        if how == "refused":
            numbered.insert([row(2), row(3), row(1)])
        elif how == "one refused":
            numbered.insert1(row(1))
        elif how == "rolled back":
            with connection.transaction:
                numbered.insert1(row(2))
                raise TooLongError
        elif how == "lost":
            connection.start_transaction()
            with pytest.raises(TooLongError):
                dj_npy.insert(numbered, then_hang_up(numbered))
        else:
            connection.query(f"DROP TRIGGER `{numbered.database}`.copies")
            connection.query(
                f"CREATE TRIGGER `{numbered.database}`.copies BEFORE UPDATE ON "
                f"{numbered.full_table_name} FOR EACH ROW INSERT INTO {audit.full_table_name} "
                f"(id, waveform) VALUES (NEW.id, NEW.waveform)"
            )
            with pytest.raises(Exception):  # noqa: B017, PT011
                numbered.update1({"id": 1, "waveform": WAVEFORM, "n": "no number"})
    reconnect_if_lost(connection)
    assert_no_row_without_its_file(audit)
    assert_no_row_without_its_file(numbered)


def then_hang_up(numbered: Any) -> Iterator[dict[str, Any]]:
    """Yield a row whose statement is done, and then the session is lost."""
    original = numbered.connection._execute_query

    def execute(cursor: Any, query: str, *args: Any) -> None:
        original(cursor, query, *args)
        if query.startswith("INSERT"):
            del numbered.connection._execute_query
            numbered.connection._conn.close()
            raise TooLongError

    numbered.connection._execute_query = execute
    yield row(5)


def test_triggers_that_the_account_is_not_told_of(few_grants: Any, store: Path) -> None:
    """Who may not create triggers sees none; nothing that a trigger may keep is removed."""
    instance, user = few_grants, few_grants.connection.conn_info["user"]
    root = instance_of(instance.connection.conn_info["port"], "root", "").connection
    schema = instance.Schema(f"{user}_one")
    numbered = schema(type("Numbered", (dj.Manual,), {"definition": DEFINITION}))()
    name = numbered.full_table_name
    with pytest.raises(DuplicateError):
        numbered.insert([row(1), row(1)])
    assert not files(store)  # it may create triggers, and there are none
    root.query(f"REVOKE TRIGGER ON `{user}\\_%%`.* FROM {user}@localhost")
    root.query(f"CREATE TABLE `{schema.database}`.kept (w json) ENGINE=MyISAM")
    root.query(
        f"CREATE TRIGGER `{schema.database}`.keeps BEFORE INSERT ON {name} FOR EACH ROW "
        f"INSERT INTO `{schema.database}`.kept VALUES (NEW.waveform)"
    )
    instance.connection.close()
    instance.connection.connect()
    with pytest.raises(DuplicateError):
        numbered.insert([row(1), row(1)])
    kept = [text for (text,) in root.query(f"SELECT w FROM `{schema.database}`.kept")]
    assert kept
    assert any(path in kept[0] for path in files(store))
    root.close()


# What else is sent while a statement is


def after_the_insert(
    table: Any, monkeypatch: pytest.MonkeyPatch, handler: Callable[[], object]
) -> None:
    """Have a handler called once the first INSERT has been answered, as a signal's may be."""
    connection, begins = table.connection, f"INSERT INTO {table.full_table_name}"
    original, handlers = connection.query, [handler]

    def query(statement: str, *args: Any, **options: Any) -> Any:
        answer = original(statement, *args, **options)
        if statement.startswith(begins) and handlers:
            handlers.pop()()
        return answer

    monkeypatch.setattr(connection, "query", query)


@pytest.mark.parametrize("is_caught", [False, True])
@pytest.mark.parametrize("by", ["query", "driver", "insert", "update"])
@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
def test_a_signal_handler_whose_own_query_is_refused(
    numbered: Any,
    table: MakeTable,
    monkeypatch: pytest.MonkeyPatch,
    insert: Any,
    by: str,
    is_caught: bool,
) -> None:
    connection, nonsense = numbered.connection, "SELECT nonsense FROM nowhere"
    numbered.heading.attributes  # noqa: B018
    log = table(numbered.definition, "Log")()
    log.insert1(row(1))

    def handler() -> None:
        with suppress(Exception) if is_caught else nullcontext():
            if by == "driver":
                with connection._conn.cursor() as cursor:
                    cursor.execute(nonsense)
            elif by == "query":
                connection.query(nonsense)
            elif by == "insert":
                log.insert1(row(1))
            else:
                log.update1(row(1, n="no number"))
        raise TooLongError

    after_the_insert(numbered, monkeypatch, handler)
    with pytest.raises(TooLongError if is_caught else Exception) as raised:
        insert(numbered, [row(1), row(2)])
    assert isinstance(raised.value, TooLongError) == is_caught
    monkeypatch.undo()
    assert assert_no_row_without_its_file(numbered) == 2
    assert assert_no_row_without_its_file(log) == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("refused", ["handler", "statement"])
def test_a_signal_handler_that_inserts(numbered: Any, table: MakeTable, refused: str) -> None:
    """As a heartbeat does, at random moments: either may get the answer to the other."""
    log = table(numbered.definition, "Log")()
    log.insert1(row(0))
    numbered.insert1(row(-1))
    started = time.monotonic()
    numbered.insert1(row(0))
    usual_s = time.monotonic() - started
    chance, beats = random.Random(0), itertools.count(1)

    def beat(*_: object) -> None:
        log.insert1(row(0 if refused == "handler" else next(beats)))

    before = signal.signal(signal.SIGALRM, beat)
    raised = number = 0
    try:
        while time.monotonic() - started < SECONDS or number < (10 if raised else 1000):
            number += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.2, 1) * usual_s)
                numbered.insert1(row(number if refused == "handler" else 0))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Exception:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised
    assert assert_no_row_without_its_file(numbered) > 1
    assert assert_no_row_without_its_file(log) > (refused == "statement")


@pytest.mark.parametrize("by", ["DataJoint", "driver"])
@pytest.mark.parametrize("insert", [plainly, dj_npy.insert])
def test_a_signal_handler_that_commits(
    numbered: Any, table: MakeTable, monkeypatch: pytest.MonkeyPatch, insert: Any, by: str
) -> None:
    """And another session moves the row before this one is asked."""
    archive = table(numbered.definition, "Archive")()
    name, archive_name = numbered.full_table_name, archive.full_table_name
    archive.heading.attributes  # noqa: B018
    numbered.heading.attributes  # noqa: B018
    connection = numbered.connection

    def handler() -> None:
        if by == "DataJoint":
            connection.query("COMMIT")
        else:
            with connection._conn.cursor() as cursor:
                cursor.execute("COMMIT")
        with another_session(connection) as own, own._conn.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"INSERT INTO {archive_name} SELECT * FROM {name}")
            cursor.execute(f"DELETE FROM {name}")
            cursor.execute("COMMIT")
        raise TooLongError

    after_the_insert(numbered, monkeypatch, handler)
    with pytest.raises(TooLongError), connection.transaction:
        insert(numbered, [row(1), row(2)])
    monkeypatch.undo()
    assert assert_no_row_without_its_file(archive) == 2


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_rows_that_are_made_by_other_inserts(
    numbered: Any, table: MakeTable, store: Path, chunk_size: int | None
) -> None:
    """What is said of skipped duplicates holds for the table's own insert."""
    if is_postgresql(numbered):  # which has no REPLACE
        return
    other = table(numbered.definition, "Other")()
    other.insert1(row(1))

    def rows() -> Iterator[dict[str, Any]]:
        for number in (1, 2):
            other.insert([row(number), row(number)], replace=True)
            yield row(number)

    numbered.insert1(row(1))
    before = len(files(store))
    dj_npy.insert(numbered, rows(), skip_duplicates=True, chunk_size=chunk_size)
    assert assert_no_row_without_its_file(numbered) == 2
    assert assert_no_row_without_its_file(other) == 2
    # What was replaced may be in a history, and is left to `collect`; what was skipped is not.
    assert len(files(store)) == before + 4 + 1


@pytest.mark.parametrize("versioned", [False, True])
def test_rows_that_another_session_moves_at_once(
    numbered: Any, table: MakeTable, versioned: bool
) -> None:
    if (
        versioned
        and "mariadb" not in str(numbered.connection.query("SELECT version()").fetchone()).lower()
    ):
        return
    archive = table(numbered.definition, "Archive")()
    name, archive_name = numbered.full_table_name, archive.full_table_name
    archive.heading.attributes  # noqa: B018
    if versioned:
        numbered.connection.query(f"ALTER TABLE {name} ADD SYSTEM VERSIONING")
    stop = threading.Event()

    def move() -> None:
        with another_session(numbered.connection) as own, own._conn.cursor() as cursor:
            while not stop.is_set():
                with suppress(psycopg2.Error, pymysql.Error):
                    cursor.execute("BEGIN")
                    if not versioned:
                        cursor.execute(
                            f"INSERT INTO {archive_name} SELECT * FROM {name} FOR UPDATE"
                        )
                    cursor.execute(f"DELETE FROM {name}")
                    cursor.execute("COMMIT")
                    continue
                with suppress(psycopg2.Error, pymysql.Error):
                    cursor.execute("ROLLBACK")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        until, number = time.monotonic() + SECONDS, 0
        while time.monotonic() < until or number <= 5:
            number += 1
            with suppress(DataJointError):  # a lock that went to the other one
                dj_npy.insert(numbered, [row(number)], skip_duplicates=True)
    finally:
        stop.set()
        mover.join()
    if not versioned:
        assert assert_no_row_without_its_file(archive) + len(numbered) > 0
        return
    stored = Path(numbered.connection._config.stores["main"]["location"])
    former = numbered.connection.query(
        f"SELECT JSON_VALUE(waveform, '$.path') FROM {name} FOR SYSTEM_TIME ALL"
    ).fetchall()
    assert former
    assert all((stored / path).exists() for (path,) in former)


def test_a_table_that_was_altered_after_its_heading_was_read(numbered: Any) -> None:
    """To MyISAM, by another session: the engine counts that it has when the statement fails."""
    if is_postgresql(numbered):
        return
    numbered.insert1(row(3))
    with another_session(numbered.connection) as own, own._conn.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {numbered.full_table_name} ENGINE=MyISAM")
    with pytest.raises(DuplicateError):
        numbered.insert([row(1), row(2), row(3)])
    with suppress(TooLongError), numbered.connection.transaction:
        numbered.insert1(row(5))
        raise TooLongError
    assert assert_no_row_without_its_file(numbered) == 4


def test_the_transaction_of_skipped_duplicates_ends(numbered: Any, store: Path) -> None:
    connection = numbered.connection
    numbered.insert1(row(1))
    dj_npy.insert(numbered, [row(1), row(2)], skip_duplicates=True)
    assert not connection.in_transaction
    with pytest.raises(Exception):  # noqa: B017, PT011
        dj_npy.insert(numbered, [row(3), row(4, n="no number")], skip_duplicates=True)
    assert not connection.in_transaction
    with connection.transaction:
        dj_npy.insert(numbered, [row(2), row(5)], skip_duplicates=True)
        assert connection.in_transaction
    assert assert_no_row_without_its_file(numbered) == len(files(store)) == 3
    connection.query("BEGIN")  # of the user's own, which DataJoint knows nothing of
    dj_npy.insert(numbered, [row(2), row(5)], skip_duplicates=True)
    assert len(files(store)) == 3
    dj_npy.insert(numbered, [row(5), row(6)], skip_duplicates=True)
    connection.query("ROLLBACK")
    assert assert_no_row_without_its_file(numbered) == 3


def test_skipped_duplicates_where_the_user_has_ended_the_transaction(numbered: Any) -> None:
    """DataJoint takes it for open, and begins no other within."""
    connection = numbered.connection
    numbered.insert1(row(1))
    with connection.transaction:
        connection.query("COMMIT")
        dj_npy.insert(numbered, [row(1), row(2)], skip_duplicates=True)
    assert assert_no_row_without_its_file(numbered) == 2


@pytest.mark.parametrize("when", [("START", "BEGIN"), ("COMMIT",)], ids=" ".join)
def test_a_transaction_of_skipped_duplicates_that_is_interrupted_ends(
    numbered: Any, monkeypatch: pytest.MonkeyPatch, when: tuple[str, ...]
) -> None:
    connection = numbered.connection
    numbered.heading.attributes  # noqa: B018
    original = connection.query

    def query(statement: str, *args: Any, **options: Any) -> Any:
        answer = original(statement, *args, **options)
        if statement.upper().startswith(when):
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(connection, "query", query)
    with pytest.raises(KeyboardInterrupt):
        dj_npy.insert(numbered, [row(1)], skip_duplicates=True)
    monkeypatch.undo()
    assert not connection.in_transaction
    numbered.insert1(row(2))
    connection.start_transaction()
    connection.cancel_transaction()
    assert assert_no_row_without_its_file(numbered) == 1 + (when == ("COMMIT",))


def test_a_commit_that_the_server_refuses_leaves_no_transaction(numbered: Any) -> None:
    if not is_postgresql(numbered):  # which alone checks at the commit
        return
    name, connection = numbered.full_table_name, numbered.connection
    connection.query(
        f"ALTER TABLE {name} ADD CONSTRAINT few UNIQUE (n) DEFERRABLE INITIALLY DEFERRED"
    )
    numbered.insert1(row(1))
    with pytest.raises(Exception, match="few"):
        dj_npy.insert(numbered, [row(2)], skip_duplicates=True)
    assert not connection.in_transaction
    numbered.insert1(row(3, n=3))
    assert assert_no_row_without_its_file(numbered) == 2


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        (["GRANT ALL PRIVILEGES ON *.* TO `u`@`h`"], True),
        (["GRANT SELECT, INSERT ON *.* TO `u`@`h`"], False),
        (["GRANT USAGE ON *.* TO `u`@`h`", "GRANT ALL PRIVILEGES ON `lab\\_%`.* TO `u`@`h`"], True),
        (["GRANT ALL PRIVILEGES ON `labX%`.* TO `u`@`h`"], False),
        (
            ["GRANT ALL PRIVILEGES ON `lab%`.* TO `u`@`h`", "GRANT INSERT ON `lab_one`.* TO u"],
            False,
        ),
        (["GRANT INSERT, TRIGGER ON `lab_one`.`t` TO `u`@`h`"], True),
        (["GRANT INSERT, TRIGGER ON `lab_one`.`other` TO `u`@`h`"], False),
        (["GRANT SELECT, TRIGGER ON *.* TO u", "REVOKE TRIGGER ON `lab_one`.* FROM u"], False),
        (["GRANT ALL PRIVILEGES ON `LAB_ONE`.* TO `u`@`h`"], False),
        (['GRANT TRIGGER ON "lab_one".* TO "u"@"h"'], True),
        (["GRANT EXECUTE ON PROCEDURE `lab_one`.`p` TO `u`@`h`"], False),
        ([], False),
    ],
)
def test_who_is_told_of_triggers(grants: list[str], expected: bool) -> None:
    assert sees_triggers(answers(grants), "lab_one", "t") is expected


@pytest.mark.parametrize(
    ("schemas", "expected"),
    [("lab%", False), ("lab\\_%", False), ("lab_one", True), ("lab\\_one", True)],
)
def test_who_is_told_of_triggers_where_names_are_no_patterns(schemas: str, expected: bool) -> None:
    grants = [f"GRANT ALL PRIVILEGES ON `{schemas}`.* TO `u`@`h`"]
    assert sees_triggers(answers(grants, partial_revokes=True), "lab_one", "t") is expected


def answers(grants: list[str], partial_revokes: bool = False) -> Callable[[str], list[Any]]:
    def select(query: str) -> list[Any]:
        if "version()" in query:
            return [("9.7.1" if partial_revokes else "10.11-MariaDB",)]
        if "current_role" in query:
            return [("NONE",)]
        if "partial_revokes" in query:
            return [("partial_revokes", "ON")] if partial_revokes else []
        return [(line,) for line in grants]

    return select


def test_a_session_that_does_not_commit_by_itself(numbered: Any) -> None:
    connection = numbered.connection
    numbered.insert1(row(1))
    if is_postgresql(numbered):
        connection._conn.autocommit = False
    else:
        connection.query("SET autocommit = 0")
    dj_npy.insert(numbered, [row(1), row(2)], skip_duplicates=True)
    if is_postgresql(numbered):
        connection._conn.rollback()
        connection._conn.autocommit = True
    else:
        connection.query("ROLLBACK")
        connection.query("SET autocommit = 1")
    assert assert_no_row_without_its_file(numbered) == 1  # it was the user's to commit
