"""Real databases and real disks, started for the session and gone after it."""

import atexit
import gc
import logging
import os

# The user's own DataJoint configuration is not part of the tests.
os.environ["DJ_IGNORE_CONFIG_FILE"] = "true"
# gcsfs asks by gRPC what kind of bucket it has, which the emulator does not speak.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datajoint as dj
import fasteners
import pytest

import dj_npy
import tests.support.network  # noqa: F401 - changes the environment
from dj_npy._stores import botocore, opening, remote
from dj_npy._stores.obstore import clients
from dj_npy._stores.pace import Pace
from tests.support import processes, servers
from tests.support.faults import Proxy, proxy_of
from tests.support.references import reference
from tests.support.servers import S3Raw, free_port, s3_settings

MakeTable = Callable[..., Any]

if "DJ_NPY_TEST_TEMPLATES" not in os.environ:
    # For the workers of pytest, which inherit it and end before.
    os.environ["DJ_NPY_TEST_TEMPLATES"] = tempfile.mkdtemp(prefix="dj-npy-tests-")
    atexit.register(shutil.rmtree, os.environ["DJ_NPY_TEST_TEMPLATES"], ignore_errors=True)
TEMPLATES = Path(os.environ["DJ_NPY_TEST_TEMPLATES"])

# Ignored where a shell has started the tests in the background; some of them interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


SERVERS = {
    *("postgresql", "mariadb", "mysql", "database", "few_grants", "small_exfat", "s3", "azure"),
    *("netns", "moto", "rclone", "seaweedfs", "azurite", "fake_gcs", "large_case_blind_disk"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `fast` what needs no server and is not marked `slow`."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        named = {*getattr(item, "fixturenames", ()), *(p for p in parameters if type(p) is str)}
        served = SERVERS & named
        if not served and item.get_closest_marker("slow") is None:
            item.add_marker("fast")


def pytest_runtest_setup() -> None:
    """Renew the locks of log handlers: a test that is interrupted may have left one locked."""
    for handler in (*logging.getLogger().handlers, *dj.logger.handlers):
        handler.createLock()


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's rounds; some tests make many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def session_folder() -> Path:
    """A folder with a short name: a PostgreSQL socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-tests-"))
    # Not when the session ends, but after the server in it has been stopped at exit.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def postgresql(session_folder: Path) -> Any:
    dj_npy.embedded.start(session_folder / "embedded")
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        dj.conn().query(f"ALTER SYSTEM SET {setting} = off")
    dj.conn().query("SELECT pg_reload_conf()")
    return SimpleNamespace(
        Schema=dj.Schema, FreeTable=dj.FreeTable, config=dj.config, connection=dj.conn()
    )


@pytest.fixture(scope="session")
def mariadb(session_folder: Path) -> Iterator[Any]:
    with serving_mariadb(session_folder / "mariadb") as instance:
        yield instance


@contextmanager
def serving_mariadb(folder: Path, *options: str) -> Iterator[Any]:
    path = f"{os.environ['PATH']}:/usr/sbin"
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    if not (server and install):
        servers.missing("mariadb", "apt-get install mariadb-server-core mariadb-client-core")
    prepare = [install, "--no-defaults", "--auth-root-authentication-method=normal"]
    serve = [server, "--no-defaults", "--character-set-server=utf8mb4", *options]
    with serving_sql(prepare, serve, folder) as instance:
        yield instance


@pytest.fixture(scope="session")
def mysql(session_folder: Path) -> Iterator[Any]:
    with serving_mysql(session_folder / "mysql") as instance:
        yield instance


@contextmanager
def serving_mysql(folder: Path) -> Iterator[Any]:
    default = Path.home() / ".cache/dj-npy-tests/mysql"
    root = Path(os.environ.get("DJ_NPY_TEST_MYSQL") or default).absolute()
    if not root.exists():
        servers.missing("mysql", "tests/support/mysql.sh")
    # The server wants younger libraries than this system may have.
    loader = next(root.glob("usr/lib/*/ld-linux*.so.*"))
    share = root / "usr/share/mysql"
    server = [str(loader), "--library-path", str(loader.parent), str(root / "usr/sbin/mysqld")]
    server += ["--no-defaults", "--secure-file-priv="]
    server += [f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}"]
    # Nobody wants the data after a crash of the machine; DDL is three times faster.
    hasty = ["--skip-log-bin", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF"]
    prepare, serve = [*server, "--initialize-insecure"], [*server, "--mysqlx=OFF", *hasty]
    with serving_sql(prepare, serve, folder) as instance:
        yield instance


@contextmanager
def serving_sql(prepare: list[str], serve: list[str], folder: Path) -> Iterator[Any]:
    """A connection to a server whose data are in a new folder, as its root."""
    port = free_port()
    # A server that begins removes what others have in a folder for temporary files.
    temporary = folder.with_suffix(".tmp")
    temporary.mkdir()
    where = [f"--datadir={folder}", f"--tmpdir={temporary}"]
    where += ["--user=root"] if os.geteuid() == 0 else []
    copy_of_prepared(folder, [*prepare, *where[1:]])
    address = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}.sock"]
    process = subprocess.Popen(
        [*serve, *where, *address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield connected_instance(port)
    finally:
        process.kill()
        process.wait(30)


def copy_of_prepared(folder: Path, prepare: list[str]) -> None:
    """Make the folder of a server's data, which takes seconds, once for all workers of pytest."""
    prepared = TEMPLATES / folder.name
    with fasteners.InterProcessLock(prepared.with_suffix(".lock")):
        if not prepared.exists():
            made = prepared.with_suffix(".made")
            run([*prepare, f"--datadir={made}"])
            made.rename(prepared)
    shutil.copytree(prepared, folder)
    folder.joinpath("auto.cnf").unlink(missing_ok=True)  # the identity of one server of MySQL


def connected_instance(port: int) -> Any:
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                break
        except OSError:
            time.sleep(0.1)
    return instance_of(port, "root", "")


def instance_of(port: int, user: str, password: str) -> Any:
    instance = dj.Instance(
        host="127.0.0.1", user=user, password=password, port=port, backend="mysql", use_tls=False
    )
    # DataJoint does not pass `use_tls=False` on, and PyMySQL then encrypts if the server can.
    instance.connection.conn_info["ssl"] = False
    return instance


@pytest.fixture(params=["mariadb", "mysql"])
def few_grants(request: pytest.FixtureRequest, store: Path) -> Iterator[Any]:
    """
    A connection of an account that may work in schemas of its own and see nothing else.

    Its schemas' names begin with its own and an underscore; its store is `main`.
    """
    root = request.getfixturevalue(request.param).connection
    user, password = f"few{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    root.query(f"CREATE USER {user}@localhost IDENTIFIED BY '{password}'")
    root.query(f"GRANT ALL ON `{user}\\_%%`.* TO {user}@localhost")
    instance = instance_of(root.conn_info["port"], user, password)
    instance.config.safemode = False
    instance.config.stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(store)},
    }
    yield instance
    instance.connection.close()
    made = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE %s"
    for (name,) in root.query(made, (f"{user}%",)).fetchall():
        root.query(f"DROP DATABASE `{name}`")
    root.query(f"DROP USER {user}@localhost")


def is_mariadb(database: Any) -> bool:
    """Whether it is MariaDB; DataJoint calls both it and MySQL `mysql`."""
    connection = database.connection
    return connection.adapter.backend == "mysql" and any(
        "MariaDB" in version for (version,) in connection.query("SELECT version()")
    )


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Amazon's S3 as moto understands it; honours ``If-None-Match``."""
    with servers.moto() as url:
        yield url


@pytest.fixture(scope="session")
def rclone_folder(session_folder: Path) -> Path:
    return session_folder / "rclone"


@pytest.fixture(scope="session")
def rclone(rclone_folder: Path) -> Iterator[str]:
    """S3 as rclone serves a folder; ignores ``If-None-Match`` and answers ranges with 200."""
    with servers.rclone(rclone_folder) as url:
        yield url


@pytest.fixture(scope="session")
def seaweedfs(session_folder: Path) -> Iterator[str]:
    """A real server of S3, of many parts, in which identities have few rights."""
    with servers.seaweedfs(session_folder / "seaweedfs") as url:
        yield url


@pytest.fixture(scope="session")
def azurite(session_folder: Path) -> Iterator[str]:
    """Microsoft's own emulator of Azure; a connection string."""
    with servers.azurite(session_folder / "azurite") as connection:
        yield connection


@pytest.fixture(scope="session")
def fake_gcs(session_folder: Path) -> Iterator[str]:
    """An emulator of Google's JSON API."""
    with servers.fake_gcs(session_folder / "gcs") as url:
        yield url


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dj_npy.settings, "cache_dir", tmp_path / "cache")


@pytest.fixture(params=processes.DATABASES)
def database(request: pytest.FixtureRequest) -> Any:
    """Each database in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty folder for a store."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def stores(database: Any, store: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The stores `main` (the default) and `archive`, configured for `database`."""
    archive = tmp_path / "archive"
    archive.mkdir()
    before = database.config.stores
    configured = {
        "default": "main",
        "main": {"protocol": "file", "location": str(store)},
        "archive": {"protocol": "file", "location": str(archive)},
    }
    database.config.stores = configured
    yield configured
    database.config.stores = before


@pytest.fixture
def schema(database: Any, stores: dict[str, Any]) -> Iterator[Any]:
    """An empty schema, dropped after the test."""
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    yield schema
    database.connection.cancel_transaction() if database.connection.in_transaction else None
    schema.drop(prompt=False)


@pytest.fixture
def table(schema: Any) -> MakeTable:
    """Declares a table from a definition."""

    def make(definition: str, name: str = "Recording", base: type = dj.Manual) -> Any:
        return schema(type(name, (base,), {"definition": definition}))

    return make


@pytest.fixture
def recording(table: MakeTable) -> Any:
    """The specification's table."""
    return table("recording_id : int32\n---\nwaveform : <npy@>")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path of every file that the store backends open from now on."""
    return record_opened(monkeypatch)


def record_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import builtins

    paths: list[str] = []
    original = builtins.open

    def counting(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).endswith(".npy"):
            paths.append(str(file))
        return original(file, *args, **kwargs)

    original_descriptor = os.open

    def counting_descriptors(file: Any, *args: Any, **kwargs: Any) -> int:
        if str(file).endswith(".npy"):
            paths.append(str(file))
        return original_descriptor(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(os, "open", counting_descriptors)
    return paths


@pytest.fixture(scope="session")
def small_exfat(session_folder: Path) -> Iterator[Path]:
    with exfat(session_folder / "exfat", 16 << 20) as folder:
        yield folder


@pytest.fixture
def case_blind_disk(small_exfat: Path) -> Iterator[Path]:
    """An empty folder on a real exFAT file system of 16 MB: blind to case, without links."""
    folder = small_exfat / uuid.uuid4().hex
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def large_case_blind_disk(session_folder: Path) -> Iterator[Path]:
    """The same with more room than a test needs."""
    with exfat(session_folder / "large-exfat", 8 << 30) as folder:
        yield folder


@contextmanager
def exfat(folder: Path, nbytes: int) -> Iterator[Path]:
    """A new file system, mounted in a new folder."""
    needed = ("mkfs.exfat", "mount.exfat-fuse", "losetup")
    if os.geteuid() != 0 or not all(shutil.which(name) for name in needed):
        servers.missing("exfat", "needs root, and apt-get install exfat-fuse exfatprogs")
    image = folder.with_suffix(".img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(nbytes)  # it takes no room before it is written to
    run(["mkfs.exfat", str(image)])
    device = run(["losetup", "-f", "--show", str(image)]).stdout.strip()
    try:
        run(["mount.exfat-fuse", device, str(folder)])
        yield folder
        run(["umount", str(folder)])
    finally:
        run(["losetup", "-d", device])


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is the error if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture
def stored(store: Path) -> Callable[..., dj_npy.NpyRef]:
    """Stores an array without a database and returns the reference a fetch would."""
    local = {"protocol": "file", "location": str(store)}

    def make(array: Any, recording_id: int = 1, *, store: dict[str, Any] = local) -> dj_npy.NpyRef:
        return reference(array, {"default": "main", "main": store}, recording_id)

    return make


@pytest.fixture
def parts_from_16_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects go in parts from 16 MiB on, and not from 64: the same with a quarter of the bytes."""
    monkeypatch.setattr(remote, "ONE_PUT", 16 << 20)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores count as near, however long their answers take: requests can be told beforehand."""
    monkeypatch.setattr(Pace, "answered", lambda self, delay_s: None)


@pytest.fixture
def nothing_configured() -> Iterator[None]:
    """This process has no store of its own of any name, unless a test says so."""
    before = dj.config.stores
    dj.config.stores = {}
    yield
    dj.config.stores = before


@pytest.fixture
def location() -> str:
    """A part of a bucket that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(moto: str, near: None) -> Iterator[Proxy]:
    """A proxy that can harm, in front of a server of S3's protocol."""
    with proxy_of(moto) as proxy:
        yield proxy


@pytest.fixture
def raw(moto: str, location: str) -> S3Raw:
    return S3Raw(moto, location)


@pytest.fixture
def s3(proxy: Proxy, location: str) -> dict[str, Any]:
    return s3_settings(proxy.endpoint, location=location)


@pytest.fixture
def as_if_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_forked", True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of seconds, where there are minutes."""
    monkeypatch.setattr(clients, "MAX_RETRIES", 3)
    monkeypatch.setattr(botocore, "ATTEMPTS", 3)
    monkeypatch.setattr(remote, "RETRY_S", 5)
    monkeypatch.setattr(remote, "SILENCE_S", 1)
    monkeypatch.setattr(remote, "REQUEST_S", 20)  # a busy machine pauses for ten
