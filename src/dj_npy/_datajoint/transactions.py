"""
Remove the files of rows that a DataJoint transaction inserted, if it is rolled back.

Only if that is certain. If the user's own statements change the transaction, with savepoints or a
COMMIT, files of earlier inserts are left alone.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from dj_npy._datajoint.outcome import Session, Written, remove_files

_TRANSACTION_ATTRIBUTE = "_transaction_of_dj_npy"
"""The attribute of a connection that has its transaction."""
_LAST_QUERY_ATTRIBUTE = "_last_query_of_dj_npy"
"""The attribute of a connection that has the query sent last."""
_LEAVES_IT_OPEN = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|SHOW|WITH)\b[^;]*\Z", re.IGNORECASE
)
"""
Statements that neither end a transaction nor set a savepoint.

In MySQL any DDL statement ends a transaction, and one text may have several statements.
"""
WRITES_NOTHING = re.compile(r"\s*(?:SELECT|SHOW|START TRANSACTION|BEGIN|ROLLBACK)\b", re.IGNORECASE)
_ROLLED_BACK = {1205, 1213, 1613, 1614, 3101}
"""
Errors after which MySQL may have rolled back the whole transaction.

Lock wait time-out (if the server is configured so), deadlocks, conflict with another node.
"""


class Sent:
    """
    One query of a connection, from before it is sent.

    Parameters
    ----------
    connection : datajoint.Connection
        The connection that sends it, perhaps from a signal handler during another query.
    """

    def __init__(self, connection: Any) -> None:
        self.ended = False
        self._connection, self._raw = connection, connection._conn
        before: Sent | None = getattr(connection, _LAST_QUERY_ATTRIBUTE, None)
        self._began_alone = before is None or before.ended or before._raw is not self._raw
        setattr(connection, _LAST_QUERY_ATTRIBUTE, self)

    @property
    def is_alone(self) -> bool:
        """
        Whether nothing else was sent in the session during this query or since.

        Otherwise answers may be mixed up: PyMySQL takes the next answer for that of the last query.
        """
        last: Sent = getattr(self._connection, _LAST_QUERY_ATTRIBUTE)
        return self._began_alone and (last is self or last._raw is not self._raw)


class Transaction:
    """A transaction of a connection, from its start to its commit or rollback."""

    def __init__(self, connection: Any) -> None:
        self._raw, self._process = connection._conn, os.getpid()
        self._files: list[Written] = []
        self._wrote_to: set[str | None] = set()
        self._ended = False
        self.answered = True
        """Whether the last statement was answered without an error."""

    def note_statement(self, statement: str, table: str | None) -> None:
        """Record a statement, and the table that it inserts into or updates."""
        self.answered = False
        if not _LEAVES_IT_OPEN.match(statement):
            self._files.clear()
        if not WRITES_NOTHING.match(statement):
            self._wrote_to.add(table if table and table in statement else None)

    def add_files(self, session: Session, files: Iterable[Written]) -> None:
        """Record the files of rows that were inserted or updated in a session."""
        if session.raw is self._raw and session.in_transaction:
            self._files.extend(files)

    def failed(self, error: BaseException) -> None:
        """Record the error of the last statement."""
        cause: BaseException | None = error
        while cause is not None:
            code = cause.args[0] if cause.args else None
            if isinstance(code, int) and code in _ROLLED_BACK:
                self._ended = True
            cause = cause.__context__

    def before_rollback(self, connection: Any) -> None:
        """Clear the server's warnings before a rollback."""
        if self._is_current(connection):
            Session(connection).forget_warnings()

    def after_rollback(self, connection: Any) -> None:
        """Remove the files, after the server has answered a rollback."""
        if not self._is_current(connection):
            return
        session = Session(connection)
        if not session.rolled_back_as_a_whole():
            return
        # If the server itself rolled back, in a deadlock, its warnings are gone.
        if self._ended and not all(
            table and session.is_transactional(table) for table in self._wrote_to
        ):
            return
        referenced = session.referenced(self._files)
        if referenced is not None:
            remove_files(file for file in self._files if file not in referenced)

    def _is_current(self, connection: Any) -> bool:
        is_same = connection._conn is self._raw and os.getpid() == self._process
        return is_same and bool(self._files)


def begin(connection: Any) -> None:
    """Start to track a transaction."""
    setattr(connection, _TRANSACTION_ATTRIBUTE, Transaction(connection))


def of(connection: Any) -> Transaction | None:
    """Return the connection's current transaction."""
    transaction: Transaction | None = getattr(connection, _TRANSACTION_ATTRIBUTE, None)
    return transaction


def end(connection: Any) -> Transaction | None:
    """End the connection's current transaction and return it."""
    transaction = of(connection)
    setattr(connection, _TRANSACTION_ATTRIBUTE, None)
    return transaction
