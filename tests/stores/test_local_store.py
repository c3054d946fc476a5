"""The local store: created once, durable, whole or not there at all."""

import errno
import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dj_npy import ArrayMissingError, StoreError, settings
from dj_npy._format.aliases import TEMPORARY_SUFFIX
from dj_npy._stores.base import MARKER
from dj_npy._stores.local import file as localfile
from dj_npy._stores.local import rename
from dj_npy._stores.local import store as local
from dj_npy._stores.local.store import LocalStore
from tests.support import warm
from tests.support.conformance import PLAIN, Stopped, beginning, create, names


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def local_store(store: Path) -> LocalStore:
    return LocalStore("main", str(store))


def test_a_taken_name_gets_a_token(local_store: LocalStore, store: Path) -> None:
    paths = [create(local_store, contents) for contents in (b"1", b"2", b"3")]
    assert paths[0] == PLAIN
    assert everything(store) == dict(zip(paths, (b"1", b"2", b"3"), strict=True))


def test_without_links_the_name_is_reserved(
    local_store: LocalStore, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, "links are not to be had")

    monkeypatch.setattr(rename, "_renameat2", None)
    monkeypatch.setattr(os, "link", no_link)
    paths = [create(local_store, contents) for contents in (b"1", b"2", b"3")]
    assert paths[0] == PLAIN
    assert everything(store) == dict(zip(paths, (b"1", b"2", b"3"), strict=True))


def test_keys_that_differ_in_case_only_on_a_case_blind_disk(case_blind_disk: Path) -> None:
    store = LocalStore("main", str(case_blind_disk))
    plain = ["lab/t/name=a/x.npy", "lab/t/name=A/x.npy", "LAB/T/NAME=A/X.npy"]
    paths = [create(store, path.encode(), path) for path in plain]
    found = []
    for path in paths:
        buffer = bytearray(18)
        store.read_into(path, 0, [memoryview(buffer)])
        found.append(buffer.decode())
        store.remove(path)
    assert found == plain
    assert everything(case_blind_disk) == {}


RACER = """
import errno, os, sys
from dj_npy._stores.local import rename
from dj_npy._stores.local.store import LocalStore
from tests.support.conformance import create
def no_link(*_):
    raise OSError(errno.EPERM, "links are not to be had")
store, me, way = LocalStore("main", sys.argv[1]), sys.argv[2], sys.argv[3]
if way != "rename":
    rename._renameat2 = None
if way == "reserve":
    os.link = no_link
sys.stdin.readline()
for n in range(100):
    contents = f"{me}-{n}".encode() * 1000
    print(create(store, contents, f"lab/t/k={n}/a.npy"), flush=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disk", "ways"),
    [
        ("store", ["rename"] * 4),
        ("store", ["link"] * 4),
        ("store", ["rename", "link", "reserve", "reserve"]),  # as machines of a share might
        ("case_blind_disk", ["rename"] * 4),
    ],
)
def test_racing_processes_never_share_a_file(
    disk: str, ways: list[str], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(disk)
    racers = [warm.Program("-c", RACER, str(folder), str(me), way) for me, way in enumerate(ways)]
    for racer in racers:
        print("go", file=racer.stdin, flush=True)
    contents = everything
    told = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    on_disk = contents(folder)
    assert sum(map(len, told)) == len(on_disk) == 400
    for me, paths in enumerate(told):
        for n, path in enumerate(paths):
            assert on_disk[path] == f"{me}-{n}".encode() * 1000
    for path in on_disk:
        os.unlink(folder / path)


def interrupted() -> Iterator[memoryview]:
    yield memoryview(b"the first piece")
    raise Stopped


def test_an_interrupted_write_leaves_nothing(local_store: LocalStore, store: Path) -> None:
    with pytest.raises(Stopped):
        local_store.create(names(), interrupted(), 100)
    assert everything(store) == {}


@pytest.mark.parametrize("step", ["open", "fsync", "_rename", "link", "replace"])
def test_a_failing_step_leaves_nothing_and_says_why(
    local_store: LocalStore, store: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if step in ("link", "replace"):
        monkeypatch.setattr(rename, "_renameat2", None)
    if step == "replace":

        def no_link(*_: Any) -> None:
            raise OSError(errno.EPERM, "links are not to be had")

        monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(rename if step == "_rename" else os, step, fail)
    with pytest.raises(StoreError, match=r"could not write the array at 'lab.*Input/output error"):
        create(local_store, b"1")
    monkeypatch.undo()
    assert everything(store) == {}


WITHOUT_PERMISSION = """
import os, sys
from dj_npy import StoreError
from dj_npy._stores.local.store import LocalStore
from tests.support.conformance import create
if os.geteuid() == 0:
    os.setuid(65534)
try:
    create(LocalStore("main", sys.argv[1]), b"1")
except StoreError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_folder_without_permission(session_folder: Path) -> None:
    session_folder.chmod(0o755)
    folder = session_folder / "not-mine"
    folder.mkdir(mode=0o555)
    said = warm.output("-c", WITHOUT_PERMISSION, str(folder))
    me, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(folder.stat().st_gid).gr_name
    user = "nobody" if os.geteuid() == 0 else me
    assert f"permission denied for this user, {user}: folder " in said
    assert f"is of user {me} and group {group}, with mode dr-xr-xr-x (0555)" in said
    assert everything(folder) == {}


def test_a_read_only_disk_refuses(case_blind_disk: Path) -> None:
    store = LocalStore("main", str(case_blind_disk))
    remount = ["mount", "-o", "remount,bind"]
    subprocess.run(["mount", "--bind", case_blind_disk, case_blind_disk], check=True)
    try:
        subprocess.run([*remount, "-r", str(case_blind_disk)], check=True)
        with pytest.raises(StoreError, match="file system is read-only"):
            create(store, b"1")
        assert everything(case_blind_disk) == {}
    finally:
        subprocess.run(["umount", case_blind_disk], check=True)


def test_every_new_name_is_synced_after_the_file(
    local_store: LocalStore, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def recording_fsync(descriptor: int, fsync: Any = os.fsync) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    create(local_store, b"1")
    root = str(store)
    assert synced[0].endswith(TEMPORARY_SUFFIX)
    assert synced[1:] == [f"{root}/lab/t/k=1", f"{root}/lab/t", f"{root}/lab", root]
    synced.clear()
    create(local_store, b"2", "lab/t/k=2/a.npy")
    assert synced[1:] == [f"{root}/lab/t/k=2", f"{root}/lab/t"]
    # A key of several attributes: each folder that is new has its name synced.
    synced.clear()
    create(local_store, b"1", "lab/u/a=1/b=1/a.npy")
    below = f"{root}/lab/u"
    assert synced[1:] == [f"{below}/a=1/b=1", f"{below}/a=1", below, f"{root}/lab"]
    synced.clear()
    create(local_store, b"2", "lab/u/a=2/b=1/a.npy")
    assert synced[1:] == [f"{below}/a=2/b=1", f"{below}/a=2", below]
    synced.clear()
    create(local_store, b"3", "lab/u/a=2/b=1/b.npy")
    assert synced[1:] == [f"{below}/a=2/b=1"]
    # One that is removed and made anew is new.
    shutil.rmtree(f"{below}/a=2")
    synced.clear()
    create(local_store, b"4", "lab/u/a=2/b=1/a.npy")
    assert synced[1:] == [f"{below}/a=2/b=1", f"{below}/a=2", below]
    synced.clear()
    monkeypatch.setattr(settings, "fsync", False)
    create(local_store, b"3", "lab/t/k=3/a.npy")
    assert synced == []


def test_the_disk_is_set_to_work_while_a_large_file_is_written(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    original = localfile._start_write_back

    def recording(descriptor: int, offset: int, nbytes: int) -> None:
        started.append((offset, nbytes))
        original(descriptor, offset, nbytes)

    monkeypatch.setattr(localfile, "_start_write_back", recording)
    piece = memoryview(bytes(8 << 20))
    local_store.create(names(), [piece] * 5, 40 << 20)
    assert started == [(0, 16 << 20), (16 << 20, 16 << 20)]
    started.clear()
    monkeypatch.setattr(settings, "fsync", False)
    local_store.create(names(), [piece] * 5, 40 << 20)
    assert started == []


@pytest.mark.parametrize(
    ("start", "lengths"),
    [(0, [10]), (0, [0]), (10, [0]), (3, [7]), (3, [2, 0, 5]), (0, [4, 6]), (9, [1])],
)
def test_buffers_are_filled_in_turn(
    local_store: LocalStore, start: int, lengths: list[int]
) -> None:
    path = create(local_store, b"0123456789")
    buffers = [bytearray(length) for length in lengths]
    assert local_store.read_into(path, start, [memoryview(b) for b in buffers]) == 10
    assert b"".join(buffers) == b"0123456789"[start : start + sum(lengths)]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (10, 1), (11, 0), (9, 2)])
def test_a_range_past_the_end_is_told(local_store: LocalStore, start: int, length: int) -> None:
    path = create(local_store, b"0123456789")
    assert local_store.read_into(path, start, [memoryview(bytearray(length))]) is None


def test_a_large_file_is_read_side_by_side(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SIDE_BY_SIDE", 100)
    monkeypatch.setattr(local, "_PART", 64)
    contents = os.urandom(1003)
    path = create(local_store, contents)
    head, body, tail = bytearray(7), bytearray(901), bytearray(50)
    size = local_store.read_into(path, 45, [memoryview(head), memoryview(body), memoryview(tail)])
    assert size == 1003
    assert head + body + tail == contents[45:]


AT_EXIT = """
import atexit, sys, threading
from dj_npy._stores.local.store import LocalStore
store = LocalStore("main", sys.argv[1])
def read():
    buffer = bytearray(40 << 20)
    assert store.read_into("large", 0, [memoryview(buffer)]) == 40 << 20
    print(buffer[-1])
atexit.register(read)
"""


@pytest.mark.slow
def test_a_large_file_is_read_while_the_interpreter_shuts_down(store: Path) -> None:
    (store / "large").write_bytes(b"\1" * (40 << 20))
    assert warm.output("-c", AT_EXIT, str(store)) == "1"


def test_the_beginning_of_a_file(local_store: LocalStore) -> None:
    path = create(local_store, b"0123456789")
    assert beginning(local_store, path, 4) == (b"0123", 10)
    assert beginning(local_store, path, 40) == (b"0123456789", 10)


def test_pieces_are_the_file(local_store: LocalStore) -> None:
    contents = os.urandom(5 << 19)
    path = create(local_store, contents)
    assert b"".join(bytes(piece) for piece in local_store.pieces(path)) == contents


def test_what_is_not_there_is_missing_to_readers_and_gone_to_remove(
    local_store: LocalStore,
) -> None:
    for read in (
        lambda: local_store.read_into("no/such.npy", 0, [memoryview(bytearray(1))]),
        lambda: local_store.read_beginning("no/such.npy", 1),
        lambda: list(local_store.pieces("no/such.npy")),
    ):
        with pytest.raises(ArrayMissingError, match="no such file"):
            read()
    local_store.remove("no/such.npy")


def test_a_folder_in_the_place_of_a_file(local_store: LocalStore, store: Path) -> None:
    (store / PLAIN).mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory"):
        local_store.read_beginning(PLAIN, 1)
    assert create(local_store, b"1") != PLAIN


def test_a_folder_that_is_a_link_to_nowhere(local_store: LocalStore, store: Path) -> None:
    (store / "lab").symlink_to(store / "not mounted")
    with pytest.raises(StoreError, match="could not write"):
        create(local_store, b"1")


def test_an_error_never_names_the_temporary_file(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    (store / "lab").write_bytes(b"in the way")
    with pytest.raises(StoreError) as caught:
        create(local_store, b"1")
    assert TEMPORARY_SUFFIX not in str(caught.value)
    assert everything(store) == {"lab": b"in the way"}


def test_a_marker_that_cannot_be_replaced_stays_alone(local_store: LocalStore, store: Path) -> None:
    (store / MARKER).mkdir()
    with pytest.raises(StoreError, match=r"could not write .*Is a directory"):
        local_store.mark(b"new", replace=True)
    assert [path.name for path in store.iterdir()] == [MARKER]
