"""Rows to look after, and accounts that see less of them."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import datajoint as dj
import pytest

from dj_npy._cli.main import main
from tests.upkeep.test_collect import WAVEFORM, paths


@pytest.fixture
def rows(recording: Any) -> Any:
    """Six rows."""
    recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(6)])
    return recording


@pytest.fixture
def orphans(rows: Any) -> set[str]:
    """The paths of three rows that have been deleted."""
    before = paths(rows)
    (rows & "recording_id < 3").delete(prompt=False)
    return before - paths(rows)


@pytest.fixture
def configured(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of the test is the one that is configured."""
    monkeypatch.setattr(dj, "conn", lambda: database.connection)


@pytest.fixture
def dj_npy_command(
    configured: None, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``dj-npy`` in this process, on the database of the test."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def reader(postgresql: Any) -> Iterator[Callable[..., Any]]:
    """Makes a role of PostgreSQL's from grants, in which ROLE is its name, and connects it."""
    query, made = postgresql.connection.query, []

    def make(*grants: str) -> Any:
        role = f"reader_{uuid.uuid4().hex[:8]}"
        query(f"CREATE ROLE {role} LOGIN")
        for grant in grants:
            query(grant.replace("ROLE", role))
        info = postgresql.connection.conn_info
        connection = dj.Connection(
            info["host"], role, "", info["port"], use_tls=False, backend="postgresql"
        )
        made.append((connection, role))
        return connection

    yield make
    for connection, role in made:
        connection.close()
        query(f"DROP OWNED BY {role}")
        query(f"DROP ROLE {role}")
