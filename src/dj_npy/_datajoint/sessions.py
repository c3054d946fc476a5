"""Transactions of other sessions: for how long they are open, and which may have copied rows."""

import time
from typing import Any

from dj_npy._datajoint.catalog import Snapshot
from dj_npy._errors import StoreError

EVER_S = 1e18
"""The age of a transaction whose start the server does not know."""
# A prepared transaction has no session: PostgreSQL does not say when it began, and MySQL forgets
# that in a restart. So it may be of any age.
_OPEN_FOR = {
    "postgresql": f"""
        SELECT max(age) FROM (
            SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age
            FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            UNION ALL
            SELECT {EVER_S} FROM pg_prepared_xacts WHERE database = current_database()) AS ages""",
    "mysql": f"""
        SELECT max(if(trx_mysql_thread_id = 0, {EVER_S},
                      timestampdiff(SECOND, trx_started, now()) + 1))
        FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> connection_id()""",
}
# Transactions that have written something, are running a statement, or use an old snapshot.
# PostgreSQL shows them to any account, but not their age.
_COPYING = {
    "postgresql": """
        SELECT l.virtualxid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND a.usesysid IS NOT NULL
          AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)
          AND a.pid <> pg_backend_pid()""",
    "mysql": """
        SELECT concat_ws(' ', trx_mysql_thread_id, trx_id, trx_started)
        FROM information_schema.innodb_trx
        WHERE trx_mysql_thread_id <> connection_id()
          AND (trx_mysql_thread_id = 0 OR trx_rows_modified > 0 OR trx_query IS NOT NULL)""",
}
# MySQL refreshes its list of transactions only if nobody has read it in the last 0.1 s.
_IS_LISTED = """
    SELECT count(*) FROM information_schema.innodb_trx
    WHERE trx_mysql_thread_id = connection_id()"""
_ASK_AGAIN_S = 0.15
_LISTED_WITHIN_S = 10
# The transaction of a session that ends has none for a moment; one that was prepared stays so.
_ENDED_WITHIN_S = 2


def open_for_s(now: Snapshot) -> float | None:
    """
    Return the age of the oldest other transaction in seconds; None if not permitted.

    `EVER_S` if the age of one is unknown.
    """
    deadline = time.monotonic() + _ENDED_WITHIN_S
    while True:
        listed = _transactions(now, _OPEN_FOR[now.backend])
        if listed is None:
            return None
        seconds = float(listed[0][0] or 0)
        if 0 <= seconds < EVER_S:
            return seconds
        if time.monotonic() > deadline:
            return EVER_S  # also if it is negative: a clock was set back
        time.sleep(_ASK_AGAIN_S)


def may_be_copying(now: Snapshot) -> set[str]:
    """
    Return other transactions that may have copied rows which a snapshot does not show.

    Call this after the rows were read. Empty if not permitted.
    """
    return {transaction for (transaction,) in _transactions(now, _COPYING[now.backend]) or ()}


def _transactions(now: Snapshot, query: str) -> list[tuple[Any, ...]] | None:
    """Query the server's list of transactions; None if not permitted."""
    deadline = time.monotonic() + _LISTED_WITHIN_S
    try:
        # The list is outdated while our own transaction is not in it.
        while now.backend == "mysql" and [*now.select(_IS_LISTED)] == [(0,)]:
            if time.monotonic() > deadline:
                break
            time.sleep(_ASK_AGAIN_S)
        else:
            return [*now.select(query)]
    except Exception:  # MySQL requires the privilege PROCESS
        return None
    raise StoreError(
        "the server's list of open transactions is out of date: MySQL does not read it anew "
        "while something asks for information_schema.innodb_trx all the time. Nothing was "
        "removed. Stop that, and try again"
    )
