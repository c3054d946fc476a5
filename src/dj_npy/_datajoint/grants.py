"""Find out what an account cannot see of its database server."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from datajoint.errors import DataJointError

Select = Callable[[str], Iterable[tuple[Any, ...]]]

_GRANT = re.compile(r"GRANT (.+?) ON \*\.\* TO ")
_NAME = r"(?:\*|`(?:[^`]|``)*`|\"(?:[^\"]|\"\")*\")"
_GRANT_OR_REVOKE = re.compile(rf"(GRANT|REVOKE) (.+?) ON ({_NAME})\.({_NAME}) (?:TO|FROM) ")
_REVOKE = re.compile(r"REVOKE (.+?) ON (.+?)\.\* FROM ")  # MySQL's `partial_revokes`
_OF_THE_SERVER = {"information_schema", "mysql", "performance_schema", "sys"}
_OTHER_DATABASES = """
    SELECT datname FROM pg_catalog.pg_database
    WHERE datallowconn AND NOT datistemplate AND datname <> current_database() ORDER BY datname"""


class Sight(NamedTuple):
    """What an account sees of its server."""

    unseen: list[str]
    """Descriptions of what it cannot see."""
    schemas: bool
    """Whether it sees all schemas of the database."""
    transactions: bool
    """Whether it sees open transactions, which may have rows of others."""


def sight(select: Select, backend: str) -> Sight:
    """Return what the account sees; unknown counts as not seen."""
    return _of_postgresql(select) if backend == "postgresql" else _of_mysql(select)


def _of_postgresql(select: Select) -> Sight:
    # The catalog lists all tables, and reading one without permission is an error. Any account sees
    # the transactions that have written, but not their age.
    unseen = []
    try:
        [(sees_ages,)] = select("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")
        others = [str(name) for (name,) in select(_OTHER_DATABASES)]
    except DataJointError:
        sees_ages, others = False, ["that of this server which could not be asked for"]
    if not sees_ages:
        unseen.append("for how long other accounts' transactions are open (pg_read_all_stats)")
    if others:
        unseen.append(f"rows in other databases of this server: {', '.join(others)}")
    return Sight(unseen, schemas=True, transactions=True)


def _of_mysql(select: Select) -> Sight:
    try:
        lines = [str(line) for (line,) in select(_show_grants(select))]
    except DataJointError:
        lines = []
    privileges = {
        privilege
        for line in lines
        if (found := _GRANT.match(line))
        for privilege in found[1].split(", ")
    }
    has_all = "ALL PRIVILEGES" in privileges
    unseen = []
    if not (has_all or "SELECT" in privileges):
        unseen.append("rows of schemas that this account may not see (SELECT on *.*)")
    hidden = {
        found[2].strip('`"')
        for line in lines
        if (found := _REVOKE.match(line)) and {"SELECT", "ALL PRIVILEGES"} & {*found[1].split(", ")}
    }
    hidden -= _OF_THE_SERVER
    if hidden:
        unseen.append(f"rows of schemas whose SELECT was revoked: {', '.join(sorted(hidden))}")
    schemas = not unseen
    transactions = has_all or "PROCESS" in privileges
    if not transactions:
        unseen.append("open transactions (PROCESS on *.*)")
    return Sight(unseen, schemas, transactions)


def sees_triggers(select: Select, schema: str, table: str) -> bool:
    """
    Return whether MySQL or MariaDB shows the account the triggers of a table.

    That takes the TRIGGER privilege. Of several grants for schemas the server uses the most
    specific one, so each must have it.
    """
    try:
        lines = [str(line) for (line,) in select(_show_grants(select))]
        matches = _matches_literally if _has_no_patterns(select) else _matches_pattern
    except DataJointError:
        return False
    of_schema = []
    for line in lines:
        found = _GRANT_OR_REVOKE.match(line)
        if found is None:
            continue
        verb, privileges, pattern, name = found.groups()
        has_trigger = bool({"TRIGGER", "ALL PRIVILEGES"} & {*privileges.split(", ")})
        if verb == "REVOKE":
            if has_trigger and _matches_pattern(pattern.lower(), schema.lower()):
                return False
        elif name != "*":
            if has_trigger and (_unquoted(pattern), _unquoted(name)) == (schema, table):
                of_schema.append(True)
        elif pattern == "*":
            if has_trigger:
                of_schema.append(True)
        elif matches(pattern, schema):
            of_schema.append(has_trigger)
    return bool(of_schema) and all(of_schema)


def _matches_pattern(pattern: str, schema: str) -> bool:
    """Whether a grant's schema pattern matches a schema."""
    parts = re.findall(r"\\.|.", _unquoted(pattern), re.DOTALL)
    wild = {"%": ".*", "_": "."}
    text = "".join(wild.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(text, schema, re.DOTALL) is not None


def _matches_literally(name: str, schema: str) -> bool:
    return re.sub(r"\\(.)", r"\1", _unquoted(name)) == schema


def _has_no_patterns(select: Select) -> bool:
    """Whether ``_`` and ``%`` in a grant are literal, as with MySQL's `partial_revokes`."""
    # Unlike @@partial_revokes, no error in MariaDB, after which its next ROLLBACK would seem to
    # warn.
    rows = list(select("SHOW VARIABLES LIKE 'partial_revokes'"))
    return bool(rows) and rows[0][1] == "ON"


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace(2 * name[0], name[0])


def _show_grants(select: Select) -> str:
    """Return the statement that shows the grants of this account and its active roles."""
    [(version,)] = select("SELECT version()")
    if "mariadb" in str(version).lower():  # shows grants of roles as well
        return "SHOW GRANTS"
    try:
        [(roles,)] = select("SELECT current_role()")
    except DataJointError:  # before MySQL 8
        return "SHOW GRANTS"
    using = "" if roles in (None, "", "NONE") else f" USING {roles}"
    return f"SHOW GRANTS FOR CURRENT_USER(){using}"
