"""
Find out what a statement that raised has done.

The exception does not tell. A time limit, a signal handler or Ctrl-C may raise when the row already
exists, and raise any class. So a file is removed only if nothing had been sent, if the server
itself says that it refused the statement, or if a transaction that is still open, queried in its
own session, has no row with the file's path. Once a row may be committed, not finding it proves
nothing: another session may have moved it. In doubt the file stays: an orphan can be collected, a
row without its file cannot be repaired.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from traceback import walk_tb
from typing import Any, NamedTuple

from datajoint.errors import DataJointError

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._datajoint.catalog import another_session
from dj_npy._datajoint.grants import sees_triggers
from dj_npy._errors import NpyError
from dj_npy._stores import Store

_IN_TRANSACTION, _IN_FAILED_TRANSACTION, _NOT_CONNECTED = 2, 3, 4
"""libpq's PQTRANS_INTRANS, _INERROR and _UNKNOWN."""
_STATUS_IN_TRANS, _STATUS_AUTOCOMMIT = 1, 2
"""Status flags in MySQL's protocol: in a transaction, and autocommit."""
_OUTCOME_UNKNOWN = ("08", "40003")
"""SQLSTATEs with which PostgreSQL says that it does not know the outcome."""
_MAY_BE_UNSEEN = """
    SELECT %s, (
        WITH RECURSIVE parts (oid) AS (
            SELECT %s::regclass::oid
            UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN parts ON inhparent = parts.oid)
        SELECT bool_or(row_security_active(c.oid) OR relhasrules OR EXISTS (
            SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal))
        FROM pg_catalog.pg_class c JOIN parts ON parts.oid = c.oid)"""
"""
Whether PostgreSQL may have rows of a table that a query does not find.

Row security hides them from an account; a rule or a trigger, of the table or one of its partitions,
may put them elsewhere.
"""
_MAY_BE_ELSEWHERE = """
    SELECT %s, (
        SELECT engine FROM information_schema.tables WHERE table_schema = %s AND table_name = %s
    ), EXISTS (
        SELECT 1 FROM information_schema.triggers
        WHERE event_object_schema = %s AND event_object_table = %s)"""
"""
What MySQL and MariaDB say about a table: its engine, and whether it has triggers.

A trigger may put rows into a table that a rollback leaves alone, even for a duplicate that is then
skipped. An account without TRIGGER sees none of them.
"""
_WRITTEN = "SHOW SESSION STATUS WHERE variable_name IN ('Com_insert', 'Com_replace', 'Com_update')"
_REMOVALS = 16
_PATHS = 500
"""Paths per query."""
_ALL = 2**63 - 1
"""Rows: a query without LIMIT has the session's, `sql_select_limit`."""


class Written(NamedTuple):
    """A file that was created for a row."""

    store: Store
    path: str
    table: str
    """The full name of the table, quoted."""
    attribute: str
    is_findable: bool
    """Whether a query on the attribute finds the path."""


class Session:
    """
    The database session in which one statement is about to be sent.

    Parameters
    ----------
    connection : datajoint.Connection
        Its current session.
    answered : bool
        Whether the last statement of this session was answered without an error: MySQL reports the
        state of transactions with each answer.
    """

    def __init__(self, connection: Any, answered: bool = True) -> None:
        self.raw = connection._conn
        self._connection = connection
        self._is_postgresql: bool = connection.adapter.backend == "postgresql"
        if self._is_postgresql:
            status = self.raw.info.transaction_status
            in_transaction = status in (_IN_TRANSACTION, _IN_FAILED_TRANSACTION)
        else:
            status = self.raw.server_status
            # Without autocommit, the next statement starts one.
            open_ended = status & _STATUS_IN_TRANS or not status & _STATUS_AUTOCOMMIT
            in_transaction = answered and bool(open_ended)
        # `Connection.in_transaction` would query the server, and believe in one that is lost.
        self.in_transaction: bool = in_transaction

    def left_no_row(
        self, files: Sequence[Written], error: BaseException, query: str | None
    ) -> bool:
        """
        Return whether a statement certainly left no row.

        Parameters
        ----------
        files : sequence of Written
            The files of its rows.
        error : BaseException
            The error it raised.
        query : str, optional
            The very object that was sent, if nothing else was sent during it or since.
        """
        if self._connection._conn is not self.raw:
            # Reconnected: the statement may have been sent again, outside the transaction.
            again = Session(self._connection, False)
            return (
                self.in_transaction
                and self._leaves_nothing(files)
                and (again._has_written_nothing() or again.left_no_row(files, error, query))
            )
        if self._is_lost():
            # Its transaction was not committed, so it is rolled back.
            return self.in_transaction and self._leaves_nothing(files)
        refused = query is not None and self._server_refused(files, error, query)
        if self._is_postgresql:
            if self.raw.info.transaction_status == _IN_FAILED_TRANSACTION:
                return query is not None and self.in_transaction
            if refused:
                return True
        else:
            errors = self._errors_of_the_last_statement()
            if errors is None:
                # Otherwise answers would still be taken for those to other queries.
                self.raw.close()
                return self.in_transaction and self._leaves_nothing(files)
            if refused and errors > 0:
                return self.is_transactional(files[0].table)
        may_ask = query is not None and self.in_transaction
        return may_ask and self.referenced(files) == set() and self.still_in_transaction()

    def still_in_transaction(self) -> bool:
        """Whether, according to the answer just received, the transaction is still open."""
        return self._connection._conn is self.raw and Session(self._connection).in_transaction

    def referenced(self, files: Iterable[Written]) -> set[Written] | None:
        """Return the files to which a row of their table refers; None if that is unknown."""
        used: set[Written] = set()
        by_column: dict[tuple[str, str], list[Written]] = defaultdict(list)
        for file in files:
            if not file.is_findable:
                return None
            by_column[file.table, file.attribute].append(file)
        for (table, attribute), column_files in by_column.items():
            waiting = iter(column_files)
            while batch := {file.path: file for file in islice(waiting, _PATHS)}:
                paths = self._referenced_paths(table, attribute, list(batch))
                if paths is None:
                    return None
                used.update(batch[path] for path in paths)
        return used

    def forget_warnings(self) -> None:
        """
        Clear the warnings of MySQL and MariaDB.

        MariaDB keeps them through statements that read no table, even a ROLLBACK.
        """
        if not self._is_postgresql:
            self._query("SELECT %s, engine FROM information_schema.engines LIMIT 1")

    def rolled_back_as_a_whole(self) -> bool:
        """
        Whether the last statement, a ROLLBACK, undid its whole transaction.

        MySQL and MariaDB warn if a non-transactional table was changed in it, by any statement,
        trigger or function (1196, ER_WARNING_NOT_COMPLETE_ROLLBACK).
        """
        if self._is_postgresql:
            return True
        answer = self._query("SELECT %s, @@warning_count")
        return answer is not None and int(answer[0][1]) == 0

    def _is_lost(self) -> bool:
        if self._is_postgresql:
            # Another thread may be using the session, so it need not be idle.
            return bool(self.raw.info.transaction_status == _NOT_CONNECTED)
        return not self.raw.open

    def _server_refused(self, files: Sequence[Written], error: BaseException, query: str) -> bool:
        """
        Whether the driver raised an error of the server while executing this very query.

        An error that a signal handler raises has the handler among its frames. PyMySQL also raises
        errors of its own, so MySQL is queried as well.
        """
        driver = _driver(self._is_postgresql)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, driver.Error) and _raised_by(driver.__name__, cause, query):
                if not self._is_postgresql:
                    return True
                code = getattr(cause, "pgcode", None)
                sent = getattr(getattr(cause, "cursor", None), "query", None) or b""
                return (
                    code is not None
                    and not code.startswith(_OUTCOME_UNKNOWN)
                    and all(_as_json(file.path) in sent for file in files)
                )
            cause = cause.__context__
        return False

    def _errors_of_the_last_statement(self) -> int | None:
        """
        Query MySQL for the number of errors of the session's last statement.

        None if it does not answer, or if the answer is that to an earlier statement: an exception
        came between a statement and its answer.
        """
        answer = self._query("SELECT %s, @@error_count")
        return None if answer is None else int(answer[0][1])

    def _referenced_paths(self, table: str, attribute: str, paths: list[str]) -> list[str] | None:
        adapter = self._connection.adapter
        column = adapter.quote_identifier(attribute)
        if not self.is_transactional(table):
            return None
        if self._is_postgresql:
            path = f"{column} ->> 'path'"
        else:
            # DataJoint's own expression is cut at 512 characters on MySQL, and is NULL then.
            path = f"JSON_UNQUOTE(JSON_EXTRACT({column}, '$.path'))"
        placeholders = ",".join(["%s"] * len(paths))
        found = self._query(
            f"SELECT %s, t.path FROM (SELECT 1 AS one) one LEFT JOIN "
            f"(SELECT {path} AS path FROM {table} WHERE {path} IN ({placeholders})) t ON 1 = 1 "
            f"LIMIT {_ALL}",
            paths,
        )
        return None if found is None else [row[1] for row in found if row[1] in paths]

    def is_transactional(self, table: str) -> bool:
        """
        Whether a statement changes only the table itself, and a rollback undoes it.

        MyISAM tables keep the changes of failed statements and rolled-back transactions.
        """
        if self._is_postgresql:
            hidden = self._query(_MAY_BE_UNSEEN, [table])
            return hidden is not None and not hidden[0][1]
        name = table.strip("`").split("`.`")
        answer = self._query(_MAY_BE_ELSEWHERE, [*name, *name])
        if not answer or str(answer[0][1]).lower() != "innodb" or answer[0][2]:
            return False
        return sees_triggers(self._select, *name)

    def _leaves_nothing(self, files: Iterable[Written]) -> bool:
        """Whether a transaction ends entirely with its session, which cannot be queried."""
        if self._is_postgresql:
            return True
        try:
            with another_session(self._connection) as own:
                session = Session(own)
                return all(map(session.is_transactional, {file.table for file in files}))
        except Exception:
            return False

    def _has_written_nothing(self) -> bool:
        """Whether MySQL counts no INSERT or UPDATE in this session."""
        if self._is_postgresql:
            return False
        try:
            counts = self._select(_WRITTEN)
        except DataJointError:
            return False
        return len(counts) == 3 and not any(int(count) for _, count in counts)

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        try:
            with self.raw.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        except _driver(self._is_postgresql).Error as error:
            raise DataJointError(str(error)) from error

    def _query(self, query: str, args: Sequence[str] = ()) -> list[tuple[Any, ...]] | None:
        """
        Return the rows of a query whose first column is its first argument, a random token.

        None if the query fails, or any row has another token. Not through DataJoint, which would
        reconnect.
        """
        question = secrets.token_hex(8)
        try:
            with savepoint(self.raw, self._is_postgresql), self.raw.cursor() as cursor:
                cursor.execute(query, [question, *args])
                rows = list(cursor.fetchall())
        except _driver(self._is_postgresql).Error:
            return None
        return rows if rows and all(row[0] == question for row in rows) else None


@contextmanager
def savepoint(raw: Any, is_postgresql: bool) -> Iterator[None]:
    """
    Keep an error from ending a transaction of PostgreSQL's, if one is open in a session.

    Not through DataJoint, where a savepoint makes the transaction forget its files.
    """
    if not is_postgresql or raw.info.transaction_status != _IN_TRANSACTION:
        yield
        return

    def execute(verb: str) -> None:
        with raw.cursor() as cursor:
            cursor.execute(f"{verb} dj_npy")

    execute("SAVEPOINT")
    try:
        yield
    except BaseException:
        with suppress(_driver(is_postgresql).Error):  # a session that is lost
            execute("ROLLBACK TO SAVEPOINT")
        raise
    execute("RELEASE SAVEPOINT")


def remove_files(files: Iterable[Written]) -> None:
    """Remove files; ignore failures, because the first error is the one to raise."""
    refused = []

    def remove(file: Written) -> bool:
        try:
            file.store.remove(file.path)
        except NpyError:
            refused.append(file)
        # After so many, the server has died, and each may take as long to find out.
        return len(refused) < _REMOVALS

    all_in_threads(remove, files, _REMOVALS)


def _driver(is_postgresql: bool) -> Any:
    if is_postgresql:
        import psycopg2 as driver
    else:
        import pymysql as driver
    return driver


def _raised_by(driver: str, error: BaseException, query: str) -> bool:
    """Whether an error came from DataJoint's call for this query, and there from the driver."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    ours = [n for n, frame in enumerate(frames) if frame.f_locals.get("query") is query]
    return bool(ours) and all(
        frame.f_globals.get("__name__", "").partition(".")[0] == driver
        for frame in frames[ours[-1] + 1 :]
    )


def _as_json(path: str) -> bytes:
    return json.dumps(path)[1:-1].encode()
