"""`collect` by an account that does not see everything: it says so, and removes nothing unasked."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._datajoint.grants import sight
from tests.support.servers import files
from tests.upkeep.test_collect import paths

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)
HOSTS = ("localhost", "127.0.0.1")
MYSQL = pytest.mark.parametrize("database", ["mariadb", "mysql"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def schema(database: Any, stores: dict[str, Any]) -> Iterator[Any]:
    """Not of a name that begins with ``test_``: MariaDB shows those to everybody."""
    schema = database.Schema(f"lab_{uuid.uuid4().hex[:12]}")
    yield schema
    schema.drop(prompt=False)


@pytest.fixture
def shared(recording: Any, database: Any) -> Iterator[Any]:
    """Five rows whose only trace is in a schema of another lab, one of ours, and one orphan."""
    recording.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(7)])
    other = database.Schema(f"lab_{uuid.uuid4().hex[:12]}")
    copied = other(type("Copied", (dj.Manual,), {"definition": recording.definition}))
    copied.insert(recording.proj("waveform") & "recording_id < 5")
    (recording & "recording_id < 6").delete(prompt=False)
    yield copied
    other.drop(prompt=False)


@pytest.fixture
def account(database: Any) -> Iterator[Callable[..., Any]]:
    """Makes accounts from statements, in which USER is theirs, and connects them."""
    query, made = database.connection.query, []
    name = f"u{uuid.uuid4().hex[:8]}"

    def make(*grants: str, drop: str = "") -> Any:
        for host in HOSTS:
            user = f"'{name}'@'{host}'"
            query(f"CREATE USER {user} IDENTIFIED BY 'secret'")
            made.append(f"DROP USER {user}")
            for grant in grants:
                query(grant.replace("USER", user))
        made.extend(filter(None, [drop]))
        connection = dj.Instance(
            host="127.0.0.1", user=name, password="secret", use_tls=False, backend="mysql",
            port=database.connection.conn_info["port"],
        ).connection  # fmt: skip
        connection._config.stores = database.config.stores
        made.insert(0, connection)
        return connection

    yield make
    for each in made:
        query(each) if isinstance(each, str) else each.close()


def theirs(schema: Any, connection: Any) -> Any:
    return dj.Schema(schema.database, connection=connection, create_schema=False)


def on(schema: Any) -> str:
    return f"GRANT ALL PRIVILEGES ON `{schema.database}`.* TO USER"


@MYSQL
def test_an_account_that_sees_its_own_schema_removes_nothing_unless_told(
    shared: Any, recording: Any, schema: Any, store: Path, account: Callable[..., Any]
) -> None:
    mine = theirs(schema, account(on(schema)))
    before = files(store)
    found = dj_npy.collect(mine, older_than=NOW)
    assert found.counts == {"array": 6}  # five of them are live
    assert len(found.unseen) == 2
    assert "SELECT on *.*" in str(found)
    assert "not seen: open transactions (PROCESS" in str(found)
    with pytest.raises(dj_npy.StoreError, match=r"does not see all .*SELECT.*blind=True"):
        dj_npy.collect(mine, older_than=NOW, dry_run=False)
    with pytest.raises(dj_npy.StoreError, match="does not see all"):
        dj_npy.collect(mine, older_than=NOW, dry_run=False, at_most=6)
    assert files(store) == before
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.unseen) == (1, [])
    assert files(store) == paths(shared) | paths(recording)
    (recording & "recording_id = 6").delete(prompt=False)
    recording.insert1({"recording_id": 8, "waveform": WAVEFORM})
    assert len(files(store)) == 7
    found = dj_npy.collect(mine, older_than=timedelta(days=1), dry_run=False, blind=True)
    assert (found.removed, found.young) == (0, 6)


SEEING = {
    "SELECT and PROCESS": (["GRANT SELECT, PROCESS ON *.* TO USER"], True, True),
    "everything": (["GRANT ALL PRIVILEGES ON *.* TO USER"], True, True),
    "SELECT": (["GRANT SELECT ON *.* TO USER"], True, False),
    "PROCESS": (["GRANT PROCESS ON *.* TO USER"], False, True),
    "another right to everything": (["GRANT INSERT ON *.* TO USER"], False, False),
    "many schemas": (
        ["GRANT SELECT ON `lab_%%`.* TO USER", "GRANT PROCESS ON *.* TO USER"], False, True
    ),
}  # fmt: skip


@MYSQL
@pytest.mark.parametrize("case", SEEING)
def test_what_an_account_sees_is_in_its_grants(
    recording: Any, schema: Any, account: Callable[..., Any], case: str
) -> None:
    grants, schemas, transactions = SEEING[case]
    mine = theirs(schema, account(*grants, on(schema)))
    with dj_npy._datajoint.catalog.snapshot(mine.connection) as now:
        seen = sight(now.select, "mysql")
    assert (seen.schemas, seen.transactions) == (schemas, transactions)
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    if schemas and transactions:
        assert dj_npy.collect(mine, older_than=NOW, dry_run=False).ok
    else:
        with pytest.raises(dj_npy.StoreError, match="does not see all"):
            dj_npy.collect(mine, older_than=NOW, dry_run=False)


@MYSQL
@pytest.mark.parametrize("in_force", [True, False])
def test_what_a_role_sees_counts_if_it_is_in_force(
    recording: Any, schema: Any, database: Any, account: Callable[..., Any], in_force: bool
) -> None:
    """A role within a role, at that."""
    query = database.connection.query
    inner, outer = f"r{uuid.uuid4().hex[:8]}", f"r{uuid.uuid4().hex[:8]}"
    query(f"CREATE ROLE {inner}, {outer}")
    query(f"GRANT SELECT, PROCESS ON *.* TO {inner}")
    query(f"GRANT {inner} TO {outer}")
    [(version,)] = query("SELECT version()").fetchall()
    default = f"SET DEFAULT ROLE {outer} {'FOR' if 'mariadb' in version.lower() else 'TO'} USER"
    grants = [f"GRANT {outer} TO USER", on(schema), *([default] if in_force else [])]
    connection = account(*grants, drop=f"DROP ROLE {inner}, {outer}")
    with dj_npy._datajoint.catalog.snapshot(connection) as now:
        seen = sight(now.select, "mysql")
    assert (seen.schemas, seen.transactions) == (in_force, in_force)


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_partial_revoke_hides_a_schema(
    recording: Any, schema: Any, database: Any, account: Callable[..., Any]
) -> None:
    other = f"lab_{uuid.uuid4().hex[:12]}"
    database.connection.query("SET GLOBAL partial_revokes = ON")
    connection = account(
        "GRANT SELECT, PROCESS ON *.* TO USER",
        f"REVOKE SELECT ON `{other}`.* FROM USER",
        "REVOKE SELECT ON `mysql`.* FROM USER",
        drop="SET GLOBAL partial_revokes = OFF",
    )
    with dj_npy._datajoint.catalog.snapshot(connection) as now:
        seen = sight(now.select, "mysql")
    assert (seen.schemas, seen.transactions) == (False, True)
    assert seen.unseen == [f"rows of schemas whose SELECT was revoked: {other}"]


@pytest.mark.parametrize(
    ("lines", "schemas"),
    [
        (["GRANT SELECT, PROCESS ON *.* TO `u`@`%`"], True),
        (["GRANT ALL PRIVILEGES ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*ABC'"], True),
        (["GRANT SELECT, INSERT, PROCESS, RELOAD ON *.* TO `u`@`%`",
          "GRANT BACKUP_ADMIN,CLONE_ADMIN ON *.* TO `u`@`%`"], True),
        (["GRANT SELECT, PROCESS ON *.* TO `u`@`%`",
          "REVOKE SELECT ON `lab_b`.* FROM `u`@`%`"], False),
        (["GRANT SELECT, PROCESS ON *.* TO `u`@`%`",
          "REVOKE INSERT, SELECT ON \"lab_b\".* FROM \"u\"@\"%\""], False),
        (["GRANT SELECT, PROCESS ON *.* TO `u`@`%`",
          "REVOKE INSERT ON `lab_b`.* FROM `u`@`%`",
          "REVOKE SELECT ON `mysql`.* FROM `u`@`%`"], True),
        (["GRANT SELECT (`a`), PROCESS ON `lab`.`t` TO `u`@`%`"], False),
        (["GRANT USAGE ON *.* TO `u`@`%`", "GRANT `all` TO `u`@`%`"], False),
        ([], False),
    ],
)  # fmt: skip
def test_grants_are_read_as_mysql_and_mariadb_write_them(lines: list[str], schemas: bool) -> None:
    def select(query: str) -> list[tuple[Any, ...]]:
        if query == "SELECT version()":
            return [("8.4.0",)]
        if query == "SELECT current_role()":
            return [("`r`@`%`",)]
        assert query == "SHOW GRANTS FOR CURRENT_USER() USING `r`@`%`"
        return [(line,) for line in lines]

    seen = sight(select, "mysql")
    assert seen.schemas is schemas
    assert ("lab_b" in str(seen.unseen)) == any("lab_b" in x and "SELECT" in x for x in lines)


def test_what_cannot_be_asked_is_not_seen() -> None:
    def refused(query: str) -> Any:
        raise dj.errors.AccessError("no")

    assert sight(refused, "mysql")[1:] == (False, False)
    assert len(sight(refused, "postgresql").unseen) == 2


@POSTGRESQL
def test_what_postgresql_does_not_tell_is_told(
    recording: Any, schema: Any, store: Path, reader: Callable[..., Any]
) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(3)])
    grants = ["GRANT pg_read_all_data TO ROLE", "GRANT pg_read_all_stats TO ROLE"]
    found = dj_npy.collect(theirs(schema, reader(grants[0])), older_than=NOW)
    assert "pg_read_all_stats" in found.unseen[0]
    assert "pg_read_all_stats" not in str(dj_npy.collect(schema, older_than=NOW))
    assert "pg_read_all_stats" not in str(dj_npy.collect(theirs(schema, reader(*grants))))


@POSTGRESQL
def test_the_other_databases_of_the_server_are_told(recording: Any, schema: Any) -> None:
    with dj_npy._datajoint.catalog.snapshot(recording.connection) as now:
        databases = [name for (name,) in now.select("SELECT datname FROM pg_database "
                     "WHERE NOT datistemplate AND datname <> current_database()")]  # fmt: skip
    unseen = "\n".join(dj_npy.collect(schema).unseen)
    assert ("rows in other databases of this server: " in unseen) == bool(databases)
    assert all(name in unseen for name in databases)


@POSTGRESQL
def test_a_schema_that_may_not_be_used_is_an_error(
    recording: Any, schema: Any, database: Any, store: Path, reader: Callable[..., Any]
) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(3)])
    (recording & "recording_id = 1").delete(prompt=False)
    other = database.Schema(f"lab_{uuid.uuid4().hex[:12]}")
    other(type("Copied", (dj.Manual,), {"definition": recording.definition}))
    mine = reader(
        f'GRANT USAGE ON SCHEMA "{schema.database}" TO ROLE',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema.database}" TO ROLE',
    )
    try:
        for blind in (False, True):
            with pytest.raises(dj.DataJointError, match=r"(?i)permission|access"):
                dj_npy.collect(theirs(schema, mine), older_than=NOW, dry_run=False, blind=blind)
        assert len(files(store)) == 3
    finally:
        other.drop(prompt=False)
