"""Other processes that work on a test's database and stores."""

import multiprocessing
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import datajoint as dj

import dj_npy
from tests.support.servers import FolderRaw, S3Raw, s3_client, s3_settings

# Forked from a process that has imported all this, has no threads and has not used a store: a
# child is there within milliseconds, and is none the less like one that was started anew.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "tests.support.processes",
        "tests.upkeep.test_kills",
        "tests.upkeep.test_races",
        "tests.moves.test_move_kills",
        "tests.moves.test_migrate_races",
        "tests.moves.test_package_kills",
    ]
)

DATABASES = ("postgresql", "mariadb", "mysql")
STORES = ("local", "exfat", "moto", "rclone")


def fork_and(check: Callable[[], bool]) -> int:
    """Exit status of a forked child: 0 if `check` is true there, within 10 s."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
        pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if check() else 1)
    return os.waitpid(pid, 0)[1]


def places(everywhere: bool) -> list[tuple[str, str]]:
    """Return every database with every store, or each of them at least once."""
    if everywhere:
        return list(product(DATABASES, STORES))
    return [(DATABASES[n % len(DATABASES)], store) for n, store in enumerate(STORES)]


class Lab(NamedTuple):
    """A database server, and a store for it; what another process is told of them."""

    server: dict[str, Any]
    stores: dict[str, Any]
    cache_dir: Path

    def connected(self) -> Any:
        """Return a connection of one's own, with its configuration."""
        dj.logger.setLevel("ERROR")
        warnings.simplefilter("ignore", UserWarning)  # DataJoint's, of MariaDB
        dj_npy.settings.cache_dir = self.cache_dir
        instance = dj.Instance(**self.server)
        instance.config.stores = self.stores
        instance.config.safemode = False
        return instance


def lab(database: Any, store: dict[str, Any], cache_dir: Path) -> Lab:
    """Describe a database of a fixture, and make a store its only one."""
    info = database.connection.conn_info
    server = {
        "host": info["host"],
        "user": info["user"],
        "password": info["passwd"],
        "port": info["port"],
        "backend": database.connection.adapter.backend,
        "use_tls": False,
    }
    database.config.stores = {"default": "main", "main": store}
    return Lab(server, database.config.stores, cache_dir)


class Contents(NamedTuple):
    """What is in a store, as another program sees it."""

    folder: Path | None
    raw: S3Raw | None
    case_blind: bool = False

    def files(self) -> set[str]:
        """Return the paths of all files, as `listed` spells them."""
        if self.raw is not None:
            return self.raw.keys() - {".dj-npy-probe"}
        assert self.folder
        return self.listed(FolderRaw(self.folder).keys())

    def listed(self, paths: Iterable[str]) -> set[str]:
        """Return paths in one spelling of those that the store takes for the same."""
        return {path.lower() if self.case_blind else path for path in paths}

    def remains(self) -> list[str]:
        """Return what is no file and should not be there: uploads, empty folders of a key."""
        if self.raw is not None:
            try:
                return [upload["Key"] for upload in self.raw.uploads()]
            except s3_client(self.raw.url).exceptions.NoSuchUpload:  # rclone's way to say none
                return []
        assert self.folder
        folders = [path for path in self.folder.rglob("*=*") if path.is_dir()]
        return [str(folder) for folder in folders if not any(folder.iterdir())]

    def settled(self) -> set[str]:
        """Return the files when a server has ended what killed processes have asked of it."""
        found = self.files()
        for _ in range(60):
            if self.raw is None:
                break
            time.sleep(0.5)
            before, found = found, self.files()
            if before == found:
                break
        return found


def a_store(kind: str, request: Any, location: str) -> tuple[dict[str, Any], Contents]:
    """Return the settings of an empty store, and a look into it."""
    if kind in ("local", "exfat"):
        folder: Path = request.getfixturevalue("store")
        if kind == "exfat":
            folder = request.getfixturevalue("large_case_blind_disk") / location
            folder.mkdir(parents=True)
            request.addfinalizer(partial(shutil.rmtree, folder))
        contents = Contents(folder, None, kind == "exfat")
        return {"protocol": "file", "location": str(folder)}, contents
    url = request.getfixturevalue(kind)
    return s3_settings(url, location=location), Contents(None, S3Raw(url, location))


def reconnect_if_lost(connection: Any) -> None:
    """Connect anew where an exception has left the connection closed or in a transaction."""
    session = connection._conn
    is_open = session.open if hasattr(session, "open") else not session.closed
    if connection._in_transaction or not is_open:
        reconnect(connection)


def reconnect(connection: Any) -> None:
    """Give up a session, whatever it is about, and begin another."""
    with suppress(Exception):
        connection._conn.close()
    connection.connect()
    connection._in_transaction = False


def sessions(connection: Any) -> int:
    """Return how many sessions the server has. One outlives its process until it has done all."""
    of = "pg_stat_activity WHERE backend_type = 'client backend'"
    if connection.adapter.backend == "mysql":
        of = "information_schema.processlist"
    return int(connection.query(f"SELECT count(*) FROM {of}").fetchone()[0])


def wait_for_sessions(connection: Any, most: int) -> None:
    """Wait until there are no more sessions than before some processes began, that are gone."""
    for _ in range(600):
        if sessions(connection) <= most:
            return
        time.sleep(0.1)
    raise AssertionError("a session does not end")


def wait_until_idle(connection: Any, patience_s: float) -> None:
    """Wait until there is no other session, or, for so long at least, none in a statement."""
    others = (
        "SELECT state = 'active' FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    if connection.adapter.backend == "mysql":
        others = (
            "SELECT command <> 'Sleep' FROM information_schema.processlist "
            "WHERE command <> 'Daemon' AND id <> connection_id()"
        )
    begun = time.monotonic()
    while at_work := connection.query(others).fetchall():
        waited_s = time.monotonic() - begun
        if waited_s > patience_s and not any(flag for (flag,) in at_work):
            return
        assert waited_s < 60, "a session does not end its statement"
        time.sleep(0.02)


def kill_one(target: Callable[..., None], *args: Any, most_s: float) -> None:
    """Start a process that says when it is ready, and kill it some time after it has said so."""
    ready, of_process = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, of_process), daemon=True)
    process.start()
    of_process.close()
    assert ready.poll(60)
    assert ready.recv() == "ready"
    time.sleep(random.uniform(0, most_s))
    assert process.is_alive(), "it ended by itself"
    process.kill()
    process.join()
    ready.close()
