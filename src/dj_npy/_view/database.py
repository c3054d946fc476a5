"""Connections of the viewer's own: they read, write nothing, and no statement takes long."""

import copy
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from datajoint.errors import DataJointError, LostConnectionError

from dj_npy._view.answers import Refused

LIMIT_S = 10
"""Seconds that a statement may take."""
_TIMED_OUT = {"57014", 3024, 1969, 1317, 1205}
"""Codes of statements that were stopped: PostgreSQL's, MySQL's, MariaDB's; killed; lock wait."""
# Strings end where the check of a restriction thinks they do.
_BEGIN = {
    "postgresql": (
        "START TRANSACTION READ ONLY",
        "SET LOCAL statement_timeout = {ms}",
        "SET LOCAL standard_conforming_strings = on",
    ),
    "mysql": ("SET SESSION max_execution_time = {ms}", "START TRANSACTION READ ONLY"),
    "mariadb": ("SET SESSION max_statement_time = {s}", "START TRANSACTION READ ONLY"),
}
# Once for a connection: not even a statement outside such a transaction writes.
_CONNECTED = {
    "postgresql": ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
    "mysql": (
        "SET SESSION information_schema_stats_expiry = 0",  # else estimates are of yesterday
        "SET SESSION TRANSACTION READ ONLY",
    ),
    "mariadb": ("SET SESSION TRANSACTION READ ONLY",),
}


class Database:
    """
    A server, by connections made with the settings of the user's, which is left alone.

    There are as many as requests that ask it at one time.

    Parameters
    ----------
    connection : datajoint.Connection
        The user's connection.
    """

    def __init__(self, connection: Any) -> None:
        self._user = connection
        self._unused: deque[Any] = deque()
        self.adapter, self.config = connection.adapter, connection._config
        self.backend: str = connection.adapter.backend
        self.password: str = connection.conn_info["passwd"] or ""
        self._dialect = self.backend

    @contextmanager
    def session(self, limit_s: float | None = None, *, once: bool = False) -> Iterator[Any]:
        """
        Lend a connection in a read-only transaction, which is rolled back.

        Parameters
        ----------
        limit_s : float, optional
            Seconds that a statement may take, by default `LIMIT_S`.
        once : bool
            Whether to close the connection then, and with it what functions in a restriction leave
            behind: locks, variables, settings.

        Raises
        ------
        Refused
            In place of what the database raises: 413 if a statement takes longer than `limit_s`,
            502 if the connection is lost, 400 for anything else.
        """
        limit_s = LIMIT_S if limit_s is None else limit_s
        own = self._begun(limit_s)
        try:
            yield own
        except Exception as error:
            is_lost = not self._give_back(own, once)
            of_database = re.match("pymysql|psycopg2", type(error).__module__)
            if not of_database and not isinstance(error, DataJointError):
                raise
            raise self._refusal(error, is_lost, limit_s) from None
        else:
            self._give_back(own, once)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with suppress(IndexError):
            while True:
                self._unused.pop().close()

    def _begun(self, limit_s: float) -> Any:
        while self._unused:  # the server may have closed them
            own = self._unused.pop()
            with suppress(Exception):
                self._begin(own, limit_s)
                return own
            with suppress(Exception):
                own.close()
        try:
            own = self._connected()
            self._begin(own, limit_s)
        except Exception as error:
            raise self._refusal(error, True, limit_s) from None
        return own

    def _connected(self) -> Any:
        own = copy.copy(self._user)
        own._query_cache, own._in_transaction = None, False
        own.connect()
        own.connect = _no_other  # DataJoint would go on with another session, that may write
        if self.backend == "mysql":
            is_mariadb = "MariaDB" in own._conn.get_server_info()
            self._dialect = "mariadb" if is_mariadb else "mysql"
        run(own, _CONNECTED[self._dialect])
        return own

    def _begin(self, own: Any, limit_s: float) -> None:
        limits = {"ms": int(limit_s * 1000), "s": limit_s}
        run(own, [each.format(**limits) for each in _BEGIN[self._dialect]])

    def _give_back(self, own: Any, once: bool) -> bool:
        """End its transaction; return whether the connection still works."""
        try:
            run(own, ["ROLLBACK"])
        except Exception:
            with suppress(Exception):
                own.close()
            return False
        own.close() if once else self._unused.append(own)
        return True

    def _refusal(self, error: Exception, is_lost: bool, limit_s: float) -> Refused:
        codes = {getattr(error, "pgcode", None), *error.args[:1]}
        if _TIMED_OUT & {code for code in codes if isinstance(code, str | int)}:
            return Refused(
                413,
                f"the database was stopped after {limit_s:g} s: restrict by attributes of the key, "
                f"or order by one",
            )
        said = next((str(each) for each in reversed(error.args) if each), type(error).__name__)
        said = said.partition("\nLINE ")[0]
        if is_lost:
            return Refused(502, f"the database cannot be reached: {said}")
        return Refused(400, f"the database refused this: {said}")


def _no_other() -> None:
    raise LostConnectionError("the connection was lost")


def run(connection: Any, statements: Sequence[str]) -> None:
    """Run statements of our own."""
    with connection._conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def select(connection: Any, query: str, values: Sequence[Any] | None = None) -> list[Any]:
    """Return the rows of a query; with `values` for its ``%s``, in which ``%%`` is ``%``."""
    with connection._conn.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())
