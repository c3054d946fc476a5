"""Copies of remote files for memory maps: private, whole, downloaded once, forgotten in time."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dj_npy import ArrayCorruptError, StoreError, settings
from dj_npy._stores import filecache
from tests.support import warm
from tests.support.faults import Fault, Proxy
from tests.support.servers import S3Raw, s3_settings
from tests.support.users import ALICE, BOB, as_user, cache_of_mine


class Server:
    """Counts the downloads of files that hold one byte over and over."""

    def __init__(self) -> None:
        self.downloads: list[str] = []

    def opened(self, name: str, nbytes: int = 1000) -> FileIO:
        def download(file: FileIO) -> None:
            self.downloads.append(name)
            filecache.write_at(file, 0, memoryview(name[0].encode() * nbytes))

        return filecache.open_copy((name,), nbytes, download, f"the array {name!r}")

    def read(self, name: str, nbytes: int = 1000) -> bytes:
        with self.opened(name, nbytes) as file:
            return file.read()


LOOK = "bytes=0-0"
"""What asks for size and version of an object: HEAD would say less of an error."""


@pytest.fixture
def server() -> Server:
    return Server()


def copies() -> list[Path]:
    folder = cache_of_mine() / "maps"
    return [path for path in folder.iterdir() if not path.name.startswith("lock-")]


def test_a_copy_is_found_once_it_is_complete(server: Server) -> None:
    assert filecache.find_copy(("a",), 1000) is None
    server.read("a")
    with filecache.find_copy(("a",), 1000) or server.opened("b") as file:
        assert file.read() == b"a" * 1000
    assert filecache.find_copy(("a",), 999) is None
    assert filecache.find_copy(("b",), 1000) is None


def test_a_file_is_downloaded_once(server: Server) -> None:
    for _ in range(3):
        assert server.read("a") == b"a" * 1000
    assert server.downloads == ["a"]
    assert server.read("b") == b"b" * 1000
    assert server.downloads == ["a", "b"]


def test_folder_and_files_are_private(server: Server) -> None:
    os.umask(0)
    try:
        server.read("a")
    finally:
        os.umask(0o022)
    folder = cache_of_mine() / "maps"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in copies()] == [0o600]


def test_threads_download_once(server: Server) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(server.read("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"a" * 1000] * 8
    assert server.downloads == ["a"]


def test_the_least_recently_used_is_removed_first(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "cache_bytes", 3500)
    for age, name in enumerate("abc"):
        server.read(name)
        newest = max(copies(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    server.read("a")  # used now
    server.read("d")  # b has to go
    assert len(copies()) == 3
    server.downloads.clear()
    for name in "acd":
        server.read(name)
    assert server.downloads == []
    server.read("b")
    assert server.downloads == ["b"]


def test_one_above_the_limit_is_kept_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.read("a")
    monkeypatch.setattr(settings, "cache_bytes", 100)
    assert server.read("b") == b"b" * 1000
    assert len(copies()) == 1


def test_a_map_outlives_the_removal_of_its_copy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "cache_bytes", 100)
    with server.opened("a") as file:
        mapped = np.memmap(file, np.uint8, "r")
    server.read("b")
    assert bytes(mapped) == b"a" * 1000


@pytest.mark.parametrize("harm", ["shortened", "grown", "empty"])
def test_a_copy_of_another_size_is_downloaded_again(server: Server, harm: str) -> None:
    server.read("a")
    (copy,) = copies()
    os.truncate(copy, {"shortened": 10, "grown": 2000, "empty": 0}[harm])
    assert server.read("a") == b"a" * 1000


def test_a_failed_download_leaves_nothing(server: Server) -> None:
    def download(file: FileIO) -> None:
        file.write(b"half")
        raise ArrayCorruptError("changed while it was read")

    with pytest.raises(ArrayCorruptError):
        filecache.open_copy(("a",), 1000, download, "it")
    assert copies() == []
    with pytest.raises(StoreError, match="expected a copy of 1000 bytes"):
        filecache.open_copy(("a",), 1000, lambda file: None, "it")
    assert server.read("a") == b"a" * 1000


def test_what_a_killed_process_left_is_neither_used_nor_kept(server: Server) -> None:
    server.read("a")
    (copy,) = copies()
    copy.unlink()
    copy.with_suffix(".part").write_bytes(b"x" * 1000)
    assert server.read("a") == b"a" * 1000
    stale = copy.with_name("0" * 64 + ".part")
    stale.write_bytes(b"x" * 1000)
    server.read("b")
    assert stale.exists()  # another process may be at it
    os.utime(stale, (1000, 1000))
    server.read("c")
    assert not stale.exists()


@pytest.mark.parametrize("which", ["the user's", "the inner"])
@pytest.mark.parametrize("how", ["open to others", "a link", "a file", "in a file", "another's"])
def test_a_folder_that_is_not_ours_alone_is_refused(
    server: Server, tmp_path: Path, how: str, which: str
) -> None:
    cache = settings.cache_dir
    folder = cache_of_mine()
    if how == "in a file":
        cache.write_bytes(b"")
    else:
        cache.mkdir()
        if which == "the inner":
            folder.mkdir(mode=0o700)
            folder /= "maps"
    if how == "open to others":
        folder.mkdir()
        folder.chmod(0o755)
    elif how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif how == "a file":
        folder.write_bytes(b"")
    elif how == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        folder.mkdir(mode=0o700)
        os.chown(folder, 65534, 65534)
    with pytest.raises(StoreError, match="DJ_NPY_CACHE_DIR"):
        server.read("a")
    assert server.downloads == []
    assert not list(tmp_path.glob("elsewhere/*"))


TWO_USERS = """
def download(file):
    _filecache.write_at(file, 0, memoryview(str(user).encode()))

dj_npy.settings.cache_dir = arguments[0]
def mapped():
    with _filecache.open_copy(("a",), 5, download, "the array") as file:
        own = file.read()
        with _filecache.working_copy(("a",), file, "the array") as copy:
            return own.decode(), stat.S_IMODE(os.fstat(copy.fileno()).st_mode) == 0o600
told(mapped)
for folder in sorted(os.listdir(arguments[0])):
    try:
        print(folder, sorted(os.listdir(f"{arguments[0]}/{folder}")))
    except PermissionError:
        print(folder, "denied")
"""


@pytest.fixture
def shared(session_folder: Path) -> Iterator[Path]:
    """A folder for all users of a machine, such as /var/cache/dj-npy."""
    session_folder.chmod(0o755)
    folder = session_folder / "var cache"
    folder.mkdir()
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_folder_for_all_users_serves_each_privately(shared: Path) -> None:
    for umask in (0o002, 0o022):
        for user in (ALICE, BOB):
            told = as_user(user, TWO_USERS, shared, umask=umask).splitlines()
            assert told[0] == f"('{user}', True)"
            seen = [line.partition(" ")[0] for line in told if not line.endswith(" denied")]
            assert seen[1:] == [f"user-{user}"]
    for user in (ALICE, BOB):
        folder = shared / f"user-{user}"
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (user, 0o700)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("how", ["a link to his own", "a link to hers", "a folder", "open to all"])
def test_what_another_user_has_put_in_the_place_of_ones_folder_is_refused(
    shared: Path, how: str
) -> None:
    planted = shared / f"user-{ALICE}"
    hers = shared / "hers"
    hers.mkdir(mode=0o700)
    os.chown(hers, ALICE, ALICE)
    make = {
        "a link to his own": "os.mkdir(f'{path}-'); os.symlink(f'{path}-', path)",
        "a link to hers": "os.symlink(arguments[1], path)",
        "a folder": "os.mkdir(path, 0o700)",
        "open to all": "os.mkdir(path); os.chmod(path, 0o777)",
    }
    as_user(BOB, f"path = arguments[0]; {make[how]}", planted, hers)
    told = as_user(ALICE, TWO_USERS, shared)
    assert told.startswith(f"refused the cache folder '{planted}'")
    assert list(hers.iterdir()) == []
    assert [path.name for path in shared.rglob("*") if path.is_file()] == []


def test_a_fifo_in_the_place_of_a_copy_is_told(server: Server) -> None:
    server.read("a")
    (copy,) = copies()
    copy.unlink()
    os.mkfifo(copy)
    with pytest.raises(StoreError, match=r"not a file, but a FIFO"):
        server.read("a")
    copy.unlink()
    lock = next((cache_of_mine() / "maps").glob("lock-*"))
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StoreError, match=r"not a file, but a FIFO"):
        server.read("a")


def test_a_link_in_place_of_a_copy_is_not_followed(server: Server, tmp_path: Path) -> None:
    server.read("a")
    (copy,) = copies()
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 1000)
    copy.unlink()
    copy.symlink_to(secret)
    with pytest.raises(StoreError, match="could not map"):
        server.read("a")
    copy.unlink()
    copy.with_suffix(".part").symlink_to(secret)
    assert server.read("a") == b"a" * 1000
    assert not copy.with_suffix(".part").is_symlink()
    assert secret.read_bytes() == b"s" * 1000


def test_a_full_disk(server: Server, case_blind_disk: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(settings, "cache_dir", case_blind_disk / "cache")
    # exFAT has no owners and no permissions: that is another test's concern.
    monkeypatch.setattr(filecache, "_private_folder", lambda _: case_blind_disk)
    before = set(case_blind_disk.iterdir())
    with pytest.raises(StoreError, match=r"No space left.*DJ_NPY_CACHE_DIR.*40 MB to spare"):
        server.read("a", 40_000_000)
    left = set(case_blind_disk.iterdir()) - before
    assert all(path.name.startswith("lock-") for path in left)
    for path in left:
        path.unlink()


# From S3


@pytest.fixture
def array() -> Any:
    return np.random.default_rng(0).random((300_000, 4))


def maps_downloaded(proxy: Proxy) -> int:
    """How often the first part, of 1 MiB at least, was asked for."""
    first = [r.range for r in proxy.asked("GET") if (r.range or "").startswith("bytes=0-")]
    return sum(int(r.partition("-")[2]) >= (1 << 20) - 1 for r in first if r)


def test_a_remote_file_is_mapped(
    proxy: Proxy, location: str, stored: Any, array: Any, moto: str
) -> None:
    ref = stored(array, store=s3_settings(proxy.endpoint, location=location))
    mapped = ref.load(mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, array)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1
    changed = ref.load(mmap_mode="c")
    changed[0, 0] = 12345
    assert np.array_equal(ref.load(mmap_mode="r"), array)
    assert maps_downloaded(proxy) == 1
    # Another object of that name is another file.
    import io

    other = io.BytesIO()
    np.save(other, array * 2)
    S3Raw(moto, location).put(ref.path, other.getvalue())
    assert np.array_equal(ref.load(mmap_mode="r"), array * 2)
    assert np.array_equal(mapped, array)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_map_says_which_file_it_is_of(
    proxy: Proxy, location: str, stored: Any, array: Any, where: str
) -> None:
    """Whoever hands it to another process, as joblib does, sends that name."""
    known = {"store": s3_settings(proxy.endpoint, location=location)} if where == "remote" else {}
    ref = stored(array, **known)
    for mode in ("r", "r", "c", "r+"):
        mapped = ref.load(mmap_mode=mode)
        again = np.memmap(mapped.filename, ref.dtype, "r", mapped.offset, ref.shape)
        assert np.array_equal(again, array)


def test_an_object_replaced_during_the_download(
    proxy: Proxy, location: str, stored: Any, array: Any, moto: str
) -> None:
    ref = stored(array, store=s3_settings(proxy.endpoint, location=location))
    raw = S3Raw(moto, location)
    contents = raw.get(ref.path)
    replaced = threading.Event()

    def harm(request: Any) -> Fault:
        if request.range != LOOK and request.method == "GET" and not replaced.is_set():
            replaced.set()
            raw.put(ref.path, contents[:-8] + bytes(8))
        return Fault()

    proxy.harm = harm
    with pytest.raises(ArrayCorruptError, match="changed while it was read"):
        ref.load(mmap_mode="r")
    assert copies() == []
    assert ref.load(mmap_mode="r")[-1, -1] == 0


def test_without_a_cache_an_array_loads_all_the_same(
    proxy: Proxy, location: str, stored: Any, array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "cache_dir", Path("/proc/nothing-can-be-made-here"))
    ref = stored(array, store=s3_settings(proxy.endpoint, location=location))
    with pytest.raises(StoreError, match=r"could not map.*load the array instead of mapping it"):
        ref.load(mmap_mode="r")
    assert np.array_equal(ref.load(), array)


MAPPER = """
import json, sys
from types import SimpleNamespace
import dj_npy
dj_npy.settings.cache_dir = sys.argv[3]
stores = {"default": "main", "main": json.loads(sys.argv[1])}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
ref = dj_npy.NpyRef(json.loads(sys.argv[2]), config)
print("ready", flush=True)
sys.stdin.readline()
print(ref.load(mmap_mode="r").sum())
"""


def mapper_of(ref: Any, store: Any) -> warm.Program:
    """A process that maps an array once it is told to."""
    given = [json.dumps(store), json.dumps(ref._raw), str(settings.cache_dir)]
    return warm.Program("-c", MAPPER, *given)


def test_however_many_processes_ask_it_is_downloaded_once(
    proxy: Proxy, location: str, stored: Any, array: Any
) -> None:
    store = s3_settings(proxy.endpoint, location=location)
    ref = stored(array, store=store)
    mappers = [mapper_of(ref, store) for _ in range(5)]
    for mapper in mappers:
        assert mapper.stdout.readline() == "ready\n"
    proxy.harm = lambda request: Fault(stall=0.2)
    for mapper in mappers:
        print("go", file=mapper.stdin, flush=True)
    found = [mapper.communicate()[0] for mapper in mappers]
    assert {float(line) for line in found} == {float(array.sum())}
    assert maps_downloaded(proxy) == 1


def test_a_download_that_is_killed_leaves_no_wrong_file(
    proxy: Proxy, location: str, stored: Any, array: Any
) -> None:
    store = s3_settings(proxy.endpoint, location=location)
    ref = stored(array, store=store)
    name = ref.path.rpartition("/")[2]
    proxy.harm = lambda asked: Fault(stall=30 * (asked.name == name and asked.range != LOOK))
    mapper = mapper_of(ref, store)
    print("go", file=mapper.stdin, flush=True)
    while all(request.range == LOOK for request in proxy.asked("GET", name)):
        time.sleep(0.05)
    time.sleep(0.2)
    mapper.kill()
    mapper.communicate()
    assert [path.suffix for path in copies()] == [".part"]
    proxy.harm = lambda request: Fault()
    said, _ = mapper_of(ref, store).communicate("go\n")
    assert float(said.split()[1]) == float(array.sum())
    assert [path.suffix for path in copies()] == [""]
