"""
What has become of a statement that raised.

The exception does not say. A time limit, a signal handler or Ctrl-C may raise when the row is
there already, and raise any class. So a file is taken back only if nothing had been sent, if the
server itself says that it refused the statement, or if a transaction that is still open, asked in
its own session, has no row with the file's path. Once a row may be committed it proves nothing
that it is not found: another session may have moved it. In doubt the file stays: an orphan can
be collected, a row without its file cannot be mended.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
"""What the protocol of MySQL says of a session: in a transaction, and committing by itself."""
_OUTCOME_UNKNOWN = ("08", "40003")
"""SQLSTATEs with which PostgreSQL says that it does not know either."""
_MAY_BE_UNSEEN = """
    SELECT %s, (
        WITH RECURSIVE parts (oid) AS (
            SELECT %s::regclass::oid
            UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN parts ON inhparent = parts.oid)
        SELECT bool_or(row_security_active(c.oid) OR relhasrules OR EXISTS (
            SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal))
        FROM pg_catalog.pg_class c JOIN parts ON parts.oid = c.oid)"""
"""
Whether PostgreSQL may have rows of a table that are not found in it.

Row security hides them from an account; a rule or any trigger, of the table or of a part of it, may
put them elsewhere.
"""
_MAY_BE_ELSEWHERE = """
    SELECT %s, (
        SELECT engine FROM information_schema.tables WHERE table_schema = %s AND table_name = %s
    ), EXISTS (
        SELECT 1 FROM information_schema.triggers
        WHERE event_object_schema = %s AND event_object_table = %s)"""
"""
What MySQL and MariaDB say of a table now: its engine, and whether there are triggers.

A trigger may put rows into a table that a rollback leaves alone, even of a duplicate that is then
skipped. Who may not create triggers is told of none.
"""
_WRITTEN = "SHOW SESSION STATUS WHERE variable_name IN ('Com_insert', 'Com_replace', 'Com_update')"
_REMOVALS = 16
_PATHS = 500
"""How many paths are looked for by one query."""
_ALL = 2**63 - 1
"""Rows: without a limit of its own, a query has that of the session, `sql_select_limit`."""


class Written(NamedTuple):
    """A file that has been created for a row."""

    store: Store
    path: str
    table: str
    """Its full name, quoted."""
    attribute: str
    told: bool
    """Whether the attribute of a row has the path where it is looked for."""


class Session:
    """
    The session of a connection in which one statement is about to be sent.

    Parameters
    ----------
    connection : datajoint.Connection
        Its session of this moment.
    answered : bool
        Whether the last statement of this session was answered, and not by an error: what
        MySQL says of transactions comes with an answer.
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
            # Without autocommit, the next statement begins one.
            open_ended = status & _STATUS_IN_TRANS or not status & _STATUS_AUTOCOMMIT
            in_transaction = answered and bool(open_ended)
        # `Connection.in_transaction` would ask the server, and believe in one that is lost.
        self.in_transaction: bool = in_transaction

    def took_none(self, files: Sequence[Written], error: BaseException, query: str | None) -> bool:
        """
        Return whether certainly no row has come of a statement.

        Parameters
        ----------
        files : sequence of Written
            Those of its rows.
        error : BaseException
            What was raised.
        query : str, optional
            The very object that was sent, if nothing else was meanwhile or since.
        """
        if self._connection._conn is not self.raw:
            # Connected again: the statement may have been sent again, without the transaction.
            again = Session(self._connection, False)
            return (
                self.in_transaction
                and self._leaves_nothing(files)
                and (again._has_written_nothing() or again.took_none(files, error, query))
            )
        if self._is_lost():
            # Its transaction was not committed, and so is rolled back.
            return self.in_transaction and self._leaves_nothing(files)
        refused = query is not None and self._refused(files, error, query)
        if self._is_postgresql:
            if self.raw.info.transaction_status == _IN_FAILED_TRANSACTION:
                return query is not None and self.in_transaction
            if refused:
                return True
        else:
            errors = self._errors_of_the_last_statement()
            if errors is None:
                # Answers would go on being taken for those to other questions.
                self.raw.close()
                return self.in_transaction and self._leaves_nothing(files)
            if refused and errors > 0:
                return self.is_whole(files[0].table)
        may_ask = query is not None and self.in_transaction
        return may_ask and self.referenced(files) == set() and self.goes_on()

    def goes_on(self) -> bool:
        """Whether, as an answer of just now says, no one has ended the transaction meanwhile."""
        return self._connection._conn is self.raw and Session(self._connection).in_transaction

    def referenced(self, files: Iterable[Written]) -> set[Written] | None:
        """Return the files to which a row of their table refers; None: nobody knows."""
        used: set[Written] = set()
        by_column: dict[tuple[str, str], list[Written]] = defaultdict(list)
        for file in files:
            if not file.told:
                return None
            by_column[file.table, file.attribute].append(file)
        for (table, attribute), some in by_column.items():
            waiting = iter(some)
            while asked := {file.path: file for file in islice(waiting, _PATHS)}:
                paths = self._paths(table, attribute, list(asked))
                if paths is None:
                    return None
                used.update(asked[path] for path in paths)
        return used

    def forget_warnings(self) -> None:
        """
        Have MySQL and MariaDB forget what they have warned of.

        MariaDB keeps it through statements that read no table, a ROLLBACK as well.
        """
        if not self._is_postgresql:
            self._asked("SELECT %s, engine FROM information_schema.engines LIMIT 1")

    def rolled_back_as_a_whole(self) -> bool:
        """
        Whether the last statement, a ROLLBACK, has left nothing of its transaction.

        MySQL and MariaDB warn if a table that knows no transactions was changed in it, by
        whatever statement, trigger or function (1196, ER_WARNING_NOT_COMPLETE_ROLLBACK).
        """
        if self._is_postgresql:
            return True
        answer = self._asked("SELECT %s, @@warning_count")
        return answer is not None and int(answer[0][1]) == 0

    def _is_lost(self) -> bool:
        if self._is_postgresql:
            # Another thread may be at work in it, so it need not be idle.
            return bool(self.raw.info.transaction_status == _NOT_CONNECTED)
        return not self.raw.open

    def _refused(self, files: Sequence[Written], error: BaseException, query: str) -> bool:
        """
        Whether the driver has raised an error of the server's while it executed this very query.

        What a signal handler raises, of whatever class, has the handler among its frames. PyMySQL
        makes errors of its own, too, so MySQL has to be asked besides.
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
        Ask MySQL how many errors the last statement of the session had.

        None if it does not answer, or what is read is the answer to an earlier statement: an
        exception has come between a statement and its answer.
        """
        answer = self._asked("SELECT %s, @@error_count")
        return None if answer is None else int(answer[0][1])

    def _paths(self, table: str, attribute: str, paths: list[str]) -> list[str] | None:
        adapter = self._connection.adapter
        column = adapter.quote_identifier(attribute)
        if not self.is_whole(table):
            return None
        if self._is_postgresql:
            path = f"{column} ->> 'path'"
        else:
            # DataJoint's own expression is cut at 512 characters on MySQL, and then is NULL.
            path = f"JSON_UNQUOTE(JSON_EXTRACT({column}, '$.path'))"
        some = ",".join(["%s"] * len(paths))
        found = self._asked(
            f"SELECT %s, t.path FROM (SELECT 1 AS one) one LEFT JOIN "
            f"(SELECT {path} AS path FROM {table} WHERE {path} IN ({some})) t ON 1 = 1 "
            f"LIMIT {_ALL}",
            paths,
        )
        return None if found is None else [row[1] for row in found if row[1] in paths]

    def is_whole(self, table: str) -> bool:
        """
        Whether all that comes of a statement is in the table itself, and goes with a rollback.

        MyISAM's tables keep what a statement that failed, or a transaction, had done.
        """
        if self._is_postgresql:
            hidden = self._asked(_MAY_BE_UNSEEN, [table])
            return hidden is not None and not hidden[0][1]
        name = table.strip("`").split("`.`")
        answer = self._asked(_MAY_BE_ELSEWHERE, [*name, *name])
        if not answer or str(answer[0][1]).lower() != "innodb" or answer[0][2]:
            return False
        return sees_triggers(self._select, *name)

    def _leaves_nothing(self, files: Iterable[Written]) -> bool:
        """Whether a transaction goes as a whole with its session, which cannot be asked."""
        if self._is_postgresql:
            return True
        try:
            with another_session(self._connection) as own:
                session = Session(own)
                return all(map(session.is_whole, {file.table for file in files}))
        except Exception:
            return False

    def _has_written_nothing(self) -> bool:
        """Whether MySQL says that no INSERT or UPDATE has come in this session."""
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

    def _asked(self, query: str, args: Sequence[str] = ()) -> list[tuple[Any, ...]] | None:
        """
        Return the answer to a query whose first column is its first argument, a random one.

        None if it is refused, or that is not in the first column of every row. Not through
        DataJoint, which would connect again.
        """
        question = secrets.token_hex(8)
        try:
            with self.raw.cursor() as cursor, self._unharmed(cursor):
                cursor.execute(query, [question, *args])
                rows = list(cursor.fetchall())
        except _driver(self._is_postgresql).Error:
            return None
        return rows if rows and all(row[0] == question for row in rows) else None

    @contextmanager
    def _unharmed(self, cursor: Any) -> Iterator[None]:
        """Have an error within not end the transaction of PostgreSQL that there may be."""
        if not self._is_postgresql or self.raw.info.transaction_status != _IN_TRANSACTION:
            yield
            return
        cursor.execute("SAVEPOINT dj_npy_question")
        try:
            yield
        except BaseException:
            cursor.execute("ROLLBACK TO SAVEPOINT dj_npy_question")
            raise
        cursor.execute("RELEASE SAVEPOINT dj_npy_question")


def take_back(files: Iterable[Written]) -> None:
    """Remove files; one that cannot be is left, as what went wrong before has to be told."""
    refused = []

    def remove(file: Written) -> bool:
        try:
            file.store.remove(file.path)
        except NpyError:
            refused.append(file)
        # So many: the server has died, and each may take as long as to find that out.
        return len(refused) < _REMOVALS

    all_in_threads(remove, files, _REMOVALS)


def _driver(is_postgresql: bool) -> Any:
    if is_postgresql:
        import psycopg2 as driver
    else:
        import pymysql as driver
    return driver


def _raised_by(driver: str, error: BaseException, query: str) -> bool:
    """Whether an error comes out of DataJoint's call for this query, and there of the driver."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    ours = [n for n, frame in enumerate(frames) if frame.f_locals.get("query") is query]
    return bool(ours) and all(
        frame.f_globals.get("__name__", "").partition(".")[0] == driver
        for frame in frames[ours[-1] + 1 :]
    )


def _as_json(path: str) -> bytes:
    return json.dumps(path)[1:-1].encode()
