"""Faults of disks: what an insert leaves, what a load says, and that both work afterwards."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy import ArrayMissingError, NpyRef, StoreError
from dj_npy._stores.local import file as localfile
from dj_npy._stores.local import rename
from dj_npy._stores.local import store as local
from dj_npy._stores.local.store import LocalStore
from tests.conftest import run
from tests.datajoint.test_codec import WAVEFORM
from tests.support.conformance import PLAIN, create, names
from tests.support.servers import files

ROOT = Path(__file__).parents[2]

# System calls that fail


class Faulty:
    """A process that inserts and loads while its system calls fail."""

    def __init__(self, library: Path, table: Any, store: Path) -> None:
        self.store = store
        connection = table.connection.conn_info
        config = {
            "database.backend": "postgresql",
            "database.host": connection["host"],
            "database.port": connection["port"],
            "database.user": connection["user"],
            "database.password": connection["passwd"],
            "database.use_tls": False,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.failing_inserts", str(library)]
            + [table.full_table_name, str(store), json.dumps(config)],
            env={**os.environ, "LD_PRELOAD": str(library)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, use: str, call: str, error: str, **more: Any) -> Any:
        """Use it while a call fails with an error, and return what came of it."""
        assert self.process.stdin
        assert self.process.stdout
        asked = {"use": use, "call": call, "error": error, **more}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        may_not = more.get("links") is False or more.get("unless")
        assert answer["happened"] > 0 or may_not, "the fault did not happen"
        return answer


@pytest.fixture(scope="module")
def faulty(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a compiler: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("faulty")
    library, store = folder / "failing.so", folder / "store"
    store.mkdir()
    run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            str(ROOT / "tests/support/failing.c"),
            "-ldl",
        ]
    )
    before = postgresql.config.stores
    postgresql.config.stores = {"main": {"protocol": "file", "location": str(store)}}
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")

    @schema
    class Recording(dj.Manual):
        definition = "recording_id : int32\n---\nwaveform : <npy@main>"

    faulty = Faulty(library, Recording(), store)
    yield faulty
    faulty.process.kill()
    faulty.process.communicate()
    schema.drop(prompt=False)
    postgresql.config.stores = before


FULL = "the disk is full; nothing was stored. Free some space and try again"
QUOTA = "the quota is used up; nothing was stored. Free some space and try again"
EIO, EMFILE = "Input/output error", "Too many open files"
NO_SYNC = f"Invalid argument. {localfile._NO_FILE_SYNC}"
READ_ONLY, DENIED = "the file system is read-only", "permission denied for this user"

NO_RENAME: dict[str, Any] = {"renames": False}
NO_LINKS: dict[str, Any] = {"links": False, "renames": False}

INSERT_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no room for a folder": ({"call": "mkdir", "error": "ENOSPC"}, FULL),
    "no quota for a folder": ({"call": "mkdir", "error": "EDQUOT"}, QUOTA),
    "no folder may be made": ({"call": "mkdir", "error": "EACCES"}, DENIED),
    "a folder, read-only": ({"call": "mkdir", "error": "EROFS"}, READ_ONLY),
    "no room for a file": ({"call": "create", "error": "ENOSPC"}, FULL),
    "too many open files": ({"call": "create", "error": "EMFILE"}, EMFILE),
    "the first write": ({"call": "write", "error": "EIO"}, EIO),
    "the disk fills up": ({"call": "write", "error": "ENOSPC", "before": 2}, FULL),
    "the quota is reached": ({"call": "write", "error": "EDQUOT", "before": 1}, QUOTA),
    "a file too large": ({"call": "write", "error": "EFBIG", "before": 1}, "File too large"),
    "sync of the file": ({"call": "fsync", "error": "EIO"}, EIO),
    "sync finds the disk full": ({"call": "fsync", "error": "ENOSPC"}, FULL),
    "close, as of NFS": ({"call": "close", "error": "EDQUOT", "times": 1}, QUOTA),
    "rename": ({"call": "renameat2", "error": "EIO"}, EIO),
    "rename finds the disk full": ({"call": "renameat2", "error": "ENOSPC"}, FULL),
    "rename, read-only": ({"call": "renameat2", "error": "EROFS"}, READ_ONLY),
    "link": ({"call": "link", "error": "EIO", **NO_RENAME}, EIO),
    "link finds the disk full": ({"call": "link", "error": "ENOSPC", **NO_RENAME}, FULL),
    "link, read-only": ({"call": "link", "error": "EROFS", **NO_RENAME}, READ_ONLY),
    "reservation": ({"call": "create", "error": "ENOSPC", "before": 1, **NO_LINKS}, FULL),
    "rename over it": ({"call": "rename", "error": "EIO", **NO_LINKS}, EIO),
    "removal of the temporary name": (
        {"call": "unlink", "error": "EIO", "times": 1, **NO_RENAME},
        EIO,
    ),
    "sync of the folder": ({"call": "fsync folder", "error": "EIO"}, EIO),
    "sync of the folder above": ({"call": "fsync folder", "error": "EIO", "before": 1}, EIO),
    "sync finds the folder's disk full": ({"call": "fsync folder", "error": "ENOSPC"}, FULL),
    "sync finds the folder's quota used up": ({"call": "fsync folder", "error": "EDQUOT"}, QUOTA),
    "opening the folder": ({"call": "open folder", "error": "EMFILE"}, EMFILE),
    "a file that cannot be synced": ({"call": "fsync", "error": "EINVAL"}, NO_SYNC),
}


@pytest.mark.parametrize("use", ["insert", "bulk insert"])
@pytest.mark.parametrize("fault", INSERT_FAULTS)
def test_a_fault_while_inserting_leaves_nothing_and_says_why(
    faulty: Faulty, use: str, fault: str
) -> None:
    asked, reason = INSERT_FAULTS[fault]
    answer = faulty(use, **asked)
    kind, message = answer["told"]
    assert kind == "StoreError"
    assert message.startswith("could not write the array at 'test_")
    assert f"in store 'main' (folder {str(faulty.store)!r}): {reason}" in message
    assert answer["left"] == []
    assert answer["rows"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"call": "write", "error": ""},
        {"call": "write", "error": "EINTR", "times": 5},
        {"call": "fsync", "error": "EINTR", "times": 3},
        {"call": "create", "error": "EINTR", "times": 2},
        {"call": "renameat2", "error": "EPERM"},
        {"call": "link", "error": "EPERM", **NO_RENAME},
        {"call": "link", "error": "ENOTSUP", **NO_RENAME},
        {"call": "link", "error": "EINVAL", **NO_RENAME},
        {"call": "write", "error": "", **NO_LINKS},
        {"call": "create", "error": "ESTALE", "times": 2},
    ],
    ids=lambda fault: f"{fault['call']} {fault['error'] or 'in part'}",
)
def test_what_is_no_fault_is_got_over(faulty: Faulty, fault: dict[str, Any]) -> None:
    answer = faulty("insert", **fault)
    assert answer["told"] == []
    assert answer["rows"] == 1
    assert len(answer["left"]) == 1
    assert answer["left"][0].endswith("/waveform.npy")


@pytest.mark.parametrize("error", ["EINVAL", "EBADF", "EOPNOTSUPP", "ENOSYS", "EACCES", "EPERM"])
@pytest.mark.parametrize("call", ["fsync folder", "open folder"])
@pytest.mark.parametrize("use", ["insert", "bulk insert"])
def test_a_folder_that_cannot_be_synced_is_no_fault(
    faulty: Faulty, use: str, call: str, error: str
) -> None:
    answer = faulty(use, call, error)
    assert answer["told"] == []
    assert answer["rows"] == len(answer["left"]) == 1


LOST: list[dict[str, Any]] = [
    {"call": "renameat2", "error": "ENOENT"},  # asked twice, it has moved the file already
    {"call": "renameat2", "error": "EIO"},
    {"call": "link", "error": "EEXIST", **NO_RENAME},
    {"call": "link", "error": "EIO", **NO_RENAME},
    {"call": "link", "error": "ESTALE", **NO_RENAME},
    {"call": "unlink", "error": "ENOENT", **NO_RENAME},
    {"call": "rename", "error": "ENOENT", **NO_LINKS},
    {"call": "rename", "error": "EIO", **NO_LINKS},
    {"call": "mkdir", "error": "EEXIST"},
    {"call": "mkdir", "error": "EACCES"},  # where nothing may be made: it is there
    {"call": "create", "error": "EEXIST"},
]


@pytest.mark.parametrize("use", ["insert", "bulk insert"])
@pytest.mark.parametrize("fault", LOST, ids=lambda fault: f"{fault['call']} {fault['error']}")
def test_what_was_done_and_answered_otherwise_is_done(
    faulty: Faulty, use: str, fault: dict[str, Any]
) -> None:
    """A file server's answer that was lost: its client asks again, and that is refused."""
    answer = faulty(use, **fault, times=1, lost=True)
    assert answer["told"] == []
    assert answer["rows"] == 1
    [path] = answer["left"]
    assert path.endswith("/waveform.npy")
    assert (faulty.store / path).stat().st_nlink == 1


def test_that_a_disk_knows_no_exclusive_rename_is_found_out_once(faulty: Faulty) -> None:
    assert faulty("insert", "link", "EPERM", **NO_RENAME)["told"] == []
    assert faulty("insert", "renameat2", "EIO", other=True, unless=True)["happened"] == 0


def test_a_disk_that_cannot_sync_is_no_fault_where_nobody_waits(faulty: Faulty) -> None:
    answer = faulty("insert", "write", "", fsync=False)
    assert answer["told"] == []
    assert answer["rows"] == 1


@pytest.mark.parametrize("use", ["load", "slice", "verify", "copy", "map"])
@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("read", "EIO", EIO),
        ("open", "EACCES", DENIED),
        ("open", "EMFILE", EMFILE),
        ("read", "ESTALE", "Stale file handle"),
    ],
)
def test_a_fault_while_reading_is_told_from_a_damaged_file(
    faulty: Faulty, use: str, call: str, error: str, reason: str
) -> None:
    answer = faulty(use, call, error)
    kind, message = answer["told"]
    assert kind == "StoreError"
    verb = "map" if use == "map" else "read"
    assert message.startswith(f"could not {verb} the array at 'test_")
    assert f": {reason}" in message
    assert answer["left"] == []
    assert answer["rows"] == 0


def test_a_fault_in_the_middle_of_a_file(faulty: Faulty) -> None:
    for use in ("verify", "copy"):
        answer = faulty(use, "read", "EIO", before=2)
        assert answer["told"][0] == "StoreError"
        assert answer["left"] == []


@pytest.mark.parametrize("use", ["load", "slice", "verify"])
@pytest.mark.parametrize("error", ["", "EINTR"])
def test_reads_that_are_short_or_interrupted(faulty: Faulty, use: str, error: str) -> None:
    assert faulty(use, "read", error, times=6 if error else -1)["told"] == []


def test_a_full_disk_does_not_lose_what_a_copy_is_of(faulty: Faulty) -> None:
    answer = faulty("copy", "write", "ENOSPC")
    assert answer["told"][1].endswith(FULL)
    assert answer["left"] == []


# Real disks


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A disk in memory, of this test alone."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", options, "dj-npy", str(folder)])
    try:
        yield folder
    finally:
        run(["umount", str(folder)])


Insert = Callable[[Any, list[dict[str, Any]]], None]
INSERTS: dict[str, Insert] = {
    "Table.insert": lambda table, rows: table.insert(rows),
    "dj_npy.insert": lambda table, rows: dj_npy.insert(table, rows),
}


@pytest.mark.parametrize("how", INSERTS)
def test_a_disk_that_fills_up_refuses_all_rows_and_has_room_again(
    recording: Any, stores: dict[str, Any], database: Any, tmp_path: Path, how: str
) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        database.config.stores = {**stores, "main": {"protocol": "file", "location": str(disk)}}
        rows = [{"recording_id": n, "waveform": np.full(50_000, n)} for n in range(8)]
        with pytest.raises(StoreError, match="the disk is full"):
            INSERTS[how](recording, rows)
        assert len(recording()) == 0
        assert files(disk) == set()
        INSERTS[how](recording, rows[:3])
        for row in recording.to_dicts():
            assert row["waveform"].verify() == "as inserted"


def test_no_room_for_one_more_name(tmp_path: Path) -> None:
    """Folders and the file: each needs an entry in the disk's table."""
    with mounted(tmp_path / "disk", "size=1m,nr_inodes=12") as disk:
        store = LocalStore("main", str(disk))
        free = os.statvfs(disk).f_ffree
        fillers = [disk / f"filler{n}" for n in range(free)]
        refused = 0
        for filler in fillers:
            filler.touch()
        while fillers:
            try:
                assert create(store, b"contents") == PLAIN
                break
            except StoreError as error:
                assert "the disk is full" in str(error)  # noqa: PT017
                refused += 1
                assert {p.name for p in disk.rglob("*") if p.is_file()} == {
                    each.name for each in fillers
                }
            shutil.rmtree(disk / "lab", ignore_errors=True)
            fillers.pop().unlink()
        assert refused == 4  # three folders and the file
        assert (disk / PLAIN).read_bytes() == b"contents"


def test_a_disk_that_becomes_read_only(
    recording: Any, stores: dict[str, Any], database: Any, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        database.config.stores = {**stores, "main": {"protocol": "file", "location": str(disk)}}
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
        run(["mount", "-o", "remount,ro", str(disk)])
        ref = (recording & "recording_id=1").fetch1("waveform")
        for insert in INSERTS.values():
            with pytest.raises(StoreError, match="the file system is read-only"):
                insert(recording, [{"recording_id": 2, "waveform": WAVEFORM}])
        with pytest.raises(StoreError, match=r"could not map.*the file system is read-only"):
            ref.load(mmap_mode="r+")
        assert np.array_equal(ref.load(mmap_mode="r"), WAVEFORM)
        assert len(recording()) == 1
        run(["mount", "-o", "remount,rw", str(disk)])
        recording.insert1({"recording_id": 2, "waveform": WAVEFORM})
        assert len(files(disk)) == 2
        del ref


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
def test_a_file_server_that_goes_away(
    recording: Any, stores: dict[str, Any], database: Any, tmp_path: Path
) -> None:
    """And leaves the empty folder that it was mounted on: nothing is put there unless asked."""
    folder = tmp_path / "server"
    folder.mkdir()
    location = folder / "store"
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "dj-npy", str(folder)])
    try:
        location.mkdir()
        database.config.stores = {**stores, "main": {"protocol": "file", "location": str(location)}}
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
        ref = recording.fetch1("waveform")
    finally:
        run(["umount", str(folder)])
    for use in (ref.load, ref.verify, lambda: ref[0], lambda: ref.load("r")):
        with pytest.raises(StoreError, match=r"Is the file server mounted\?") as caught:
            use()
        assert not isinstance(caught.value, ArrayMissingError)
    for insert in INSERTS.values():
        with pytest.raises(StoreError, match=r"Is the file server mounted\?"):
            insert(recording, [{"recording_id": 2, "waveform": WAVEFORM}])
    assert list(folder.iterdir()) == []
    assert len(recording()) == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_user_without_permission(stored: Callable[..., NpyRef], session_folder: Path) -> None:
    session_folder.chmod(0o755)
    folder = session_folder / "of root"
    folder.mkdir()
    ref = stored(WAVEFORM, store={"protocol": "file", "location": str(folder)})
    (folder / ref.path).chmod(0o600)
    opened = LocalStore("main", str(folder))
    with as_nobody():
        for use in (
            *(ref.load, ref.verify, lambda: ref[0], lambda: ref.load("r"), lambda: ref.load("r+")),
            lambda: create(opened, b"1", "other/a.npy"),
            lambda: create(opened, b"1", ref.path),
            lambda: opened.remove(ref.path),
        ):
            with pytest.raises(StoreError, match=r"denied for this user, nobody: f\w+ '.*of root"):
                use()
    assert files(folder) == {ref.path}
    assert ref.verify() == "as inserted"


# Folders that go


def test_empty_folders_may_be_removed_at_any_time(store: Path) -> None:
    """As a collection does, between the making of a folder and that of a file in it."""
    opened = LocalStore("main", str(store))
    removed = [0]
    end = threading.Event()

    def remove() -> None:
        while not end.is_set():
            for folder, _, _ in os.walk(store, topdown=False):
                if folder != str(store):
                    try:
                        os.rmdir(folder)
                        removed[0] += 1
                    except OSError:
                        pass

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        paths = [create(opened, b"%d" % n, f"lab/t/k={n}/a.npy") for n in range(150)]
        for path in paths:
            opened.remove(path)
    finally:
        end.set()
        remover.join()
    assert removed[0] > 0
    assert paths == [f"lab/t/k={n}/a.npy" for n in range(150)]


def test_a_folder_removed_while_a_file_in_it_is_written(store: Path) -> None:
    opened = LocalStore("main", str(store))

    def pieces() -> Iterator[memoryview]:
        yield memoryview(b"half")
        shutil.rmtree(store / "lab")
        yield memoryview(b"half")

    with pytest.raises(StoreError, match=r"could not write the array at 'lab.*No such file"):
        opened.create(names(), pieces(), 8)
    assert files(store) == set()
    assert create(opened, b"again") == PLAIN


def test_a_store_removed_while_a_file_in_it_is_written(store: Path) -> None:
    opened = LocalStore("main", str(store))

    def pieces() -> Iterator[memoryview]:
        yield memoryview(b"half")
        shutil.rmtree(store)
        yield memoryview(b"half")

    with pytest.raises(StoreError, match=r"Is the file server mounted\?"):
        opened.create(names(), pieces(), 8)
    with pytest.raises(StoreError, match=r"Is the file server mounted\?"):
        create(opened, b"again")
    assert not store.exists()


def test_a_store_removed_between_the_making_of_two_folders_is_not_made(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = LocalStore("main", str(store))
    make = os.mkdir

    def mkdir(path: str, *mode: int) -> None:
        if store.exists():
            shutil.rmtree(store)
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(StoreError, match=r"Is the file server mounted\?"):
        create(opened, b"1")
    assert not store.exists()


def test_a_folder_removed_while_an_array_is_read(
    stored: Callable[..., NpyRef], store: Path
) -> None:
    array = np.arange(3_000_000.0)
    ref = stored(array)
    (store / "others").mkdir()  # an empty store would be taken for an empty mount point
    mapped = ref.load(mmap_mode="r")
    blocks = ref.blocks("4 MiB")
    first = next(blocks)
    shutil.rmtree(store / "lab")
    assert np.array_equal(first, array[: len(first)])
    assert np.array_equal(mapped, array)
    with pytest.raises(ArrayMissingError, match="no such file"):
        for _ in blocks:
            pass
    with pytest.raises(ArrayMissingError, match="no such file"):
        stored(array, 2)._file().store.stat(ref.path)


def no_link(*_: Any) -> None:
    raise PermissionError(errno.EPERM, "links are not to be had")


@pytest.mark.parametrize("step", ["fsync", "unlink", "_rename", "link", "replace"])
def test_ctrl_c_after_the_file_has_its_name(
    store: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    opened = LocalStore("main", str(store))
    module = rename if step == "_rename" else os
    original, calls = getattr(module, step), [0]
    if step in ("unlink", "link", "replace"):
        monkeypatch.setattr(rename, "_renameat2", None)
    if step == "replace":
        monkeypatch.setattr(os, "link", no_link)

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if step in ("_rename", "link", "replace"):
            original(*arguments)
        if calls[0] == (2 if step == "fsync" else 1):  # the folder's, or of the temporary name
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        create(opened, b"1")
    assert files(store) == set()


def test_the_first_of_two_errors_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails and then refuses to remove: what it failed of is what matters."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(local, "write", fail)
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        create(LocalStore("main", str(store)), b"1")
