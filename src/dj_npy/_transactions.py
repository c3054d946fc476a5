"""
Files of rows that a transaction of DataJoint's has inserted: taken back if it is rolled back.

Only if that is certain. What the user does to the transaction by statements of his own, with
savepoints or a COMMIT, is not guessed at: what had been inserted before is then left alone.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from dj_npy._outcome import Session, Written, take_back

_KEPT_AS = "_transaction_of_dj_npy"
"""The attribute of a connection that holds its transaction."""
_LEAVES_IT_OPEN = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|SHOW|WITH)\b[^;]*\Z", re.IGNORECASE
)
"""
Statements that neither end a transaction nor set a savepoint.

MySQL ends one at any statement that defines something, and several may come in one text.
"""


class Transaction:
    """A transaction of a connection, from its beginning to its commit or rollback."""

    def __init__(self, connection: Any) -> None:
        self._raw, self._process = connection._conn, os.getpid()
        self._files: list[Written] = []
        self.answered = True
        """Whether the last statement was answered, and not by an error."""

    def sends(self, statement: str) -> None:
        """Take note of a statement."""
        self.answered = False
        if not _LEAVES_IT_OPEN.match(statement):
            self._files.clear()

    def keep(self, session: Session, files: Iterable[Written]) -> None:
        """Take note of files whose rows were inserted or updated in a session."""
        if session.raw is self._raw and session.in_transaction:
            self._files.extend(files)

    def rolled_back(self, connection: Any) -> None:
        """Remove the files, now that the server has answered to a rollback."""
        if connection._conn is not self._raw or os.getpid() != self._process or not self._files:
            return
        session = Session(connection)
        if not session.rolled_back_as_a_whole():
            return
        referenced = session.referenced(self._files)
        if referenced is not None:
            take_back(file for file in self._files if file not in referenced)


def begin(connection: Any) -> None:
    """Have a transaction begin."""
    setattr(connection, _KEPT_AS, Transaction(connection))


def of(connection: Any) -> Transaction | None:
    """Return the transaction that a connection is in."""
    transaction: Transaction | None = getattr(connection, _KEPT_AS, None)
    return transaction


def end(connection: Any) -> Transaction | None:
    """Return the transaction that a connection was in until now."""
    transaction = of(connection)
    setattr(connection, _KEPT_AS, None)
    return transaction
