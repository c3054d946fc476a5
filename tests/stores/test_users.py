"""A store that several users of a machine or of a file server share."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dj_npy._stores.base import MARKER
from dj_npy._stores.local.store import LocalStore
from tests.support.users import ALICE, BOB, LAB, as_user

pytestmark = pytest.mark.slow

WAYS = {
    "rename": "",
    "link": "rename._renameat2 = None\n",
    "reserve": (
        "rename._renameat2 = None\n"
        "def no_link(*_):\n"
        "    raise PermissionError(1, 'links are not to be had')\n"
        "os.link = no_link\n"
    ),
}
CREATE = """
store = LocalStore("main", arguments[0])
told(lambda: create(store, b"contents", arguments[1]))
"""
REMOVE = """
store = LocalStore("main", arguments[0])
told(lambda: store.remove(arguments[1]))
"""
CHANGE = """
store = LocalStore("main", arguments[0])
def change():
    file, _ = store.open_to_change(arguments[1])
    with file:
        file.write(b"C")
told(change)
"""
READ = """
store = LocalStore("main", arguments[0])
told(lambda: store.read_beginning(arguments[1], 8)[0])
told(lambda: [path for path, *_ in store.files()])
"""


@pytest.fixture
def shared(session_folder: Path) -> Iterator[Path]:
    """A store's folder as a lab sets it up: of its group, which files in it inherit."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    session_folder.chmod(0o755)
    folder = session_folder / "shared" / "store"
    folder.mkdir(parents=True)
    os.chown(folder, ALICE, LAB)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder.parent)


def belongs(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_files_and_folders_are_as_umask_and_group_ask(shared: Path, umask: int, way: str) -> None:
    path = "lab/t/k=1/a.npy"
    assert as_user(ALICE, WAYS[way] + CREATE, shared, path, umask=umask) == path
    assert belongs(shared / path) == (ALICE, LAB, 0o666 & ~umask)
    for folder in ("lab", "lab/t", "lab/t/k=1"):
        assert belongs(shared / folder) == (ALICE, LAB, 0o2777 & ~umask)


def test_with_umask_002_either_user_adds_changes_and_removes(shared: Path) -> None:
    path, other = "lab/t/k=1/a.npy", "lab/t/k=1/b.npy"
    assert as_user(ALICE, CREATE, shared, path, umask=0o002) == path
    assert as_user(BOB, CREATE, shared, other, umask=0o002) == other
    assert as_user(BOB, CHANGE, shared, path) == "None"
    assert (shared / path).read_bytes() == b"Contents"
    assert belongs(shared / path) == (ALICE, LAB, 0o664)
    assert belongs(shared / other) == (BOB, LAB, 0o664)
    assert as_user(BOB, REMOVE, shared, path) == "None"
    assert as_user(ALICE, REMOVE, shared, other) == "None"
    assert not list((shared / "lab/t/k=1").iterdir())


@pytest.mark.parametrize("use", [CREATE, REMOVE])
def test_who_may_not_write_is_told_the_folder_its_owner_and_its_mode(
    shared: Path, use: str
) -> None:
    path = "lab/t/k=1/a.npy"
    as_user(ALICE, CREATE, shared, path, umask=0o022)
    asked, folder = path, "lab/t/k=1"
    if use == CREATE:  # in a folder that is not there: the nearest one counts
        asked, folder = "lab/t/k=2/l=1/a.npy", "lab/t"
    assert as_user(BOB, use, shared, asked).endswith(
        f"permission denied for this user, {BOB}: folder '{shared}/{folder}' is of user {ALICE} "
        f"and group {LAB}, with mode drwxr-sr-x (2755)"
    )
    assert as_user(BOB, CHANGE, shared, path).endswith(
        f"permission denied for this user, {BOB}: file '{shared}/{path}' is of user {ALICE} "
        f"and group {LAB}, with mode -rw-r--r-- (0644)"
    )


def test_who_may_not_read_is_told_the_file_or_the_folder_that_is_closed(shared: Path) -> None:
    path = "lab/t/k=1/a.npy"
    as_user(ALICE, CREATE, shared, path)
    closed: list[tuple[Path, int, str, str]] = [
        (shared / path, 0o600, "file", "-rw------- (0600)"),
        (shared / "lab", 0o700, "folder", "drwx--S--- (2700)"),
        (shared, 0o700, "folder", "drwx--S--- (2700)"),
        (shared.parent, 0o700, "folder", "drwx------ (0700)"),
    ]
    for what, mode, kind, shown in closed:
        before = what.stat().st_mode & 0o7777
        what.chmod(mode | (before & 0o2000))
        owner, group, _ = belongs(what)
        said = f"permission denied for this user, {BOB}: {kind} '{what}' is of user "
        for line in as_user(BOB, READ, shared, path).splitlines()[: 1 if kind == "file" else 2]:
            assert said in line
            assert line.endswith(shown)
            assert str(owner) in line.rpartition(said)[2] or owner == 0
            assert f"group {group}," in line or group == 0
        what.chmod(before)
    assert as_user(BOB, READ, shared, path) == f"b'contents'\n['{path}']"


def test_a_folder_that_may_be_written_to_and_not_read_takes_files(shared: Path) -> None:
    """A drop box: it cannot be opened, and so not be synced."""
    as_user(ALICE, "os.makedirs(arguments[0])", shared / "lab/t/k=1")
    for folder in ("lab", "lab/t", "lab/t/k=1"):
        (shared / folder).chmod(0o2733)
    path = "lab/t/k=1/a.npy"
    assert as_user(BOB, CREATE, shared, path, group=BOB) == path
    assert (shared / path).read_bytes() == b"contents"


MARK = """
store = LocalStore("main", arguments[0])
told(lambda: store.mark(b"new", replace=True))
"""


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_a_marker_that_is_replaced_keeps_mode_and_group(shared: Path, umask: int) -> None:
    shared.chmod(0o775)  # without setgid, it would get the group of who replaces it
    marker = shared / MARKER
    marker.write_bytes(b"old")
    marker.chmod(0o664)
    os.chown(marker, ALICE, LAB)
    assert as_user(BOB, MARK, shared, umask=umask) == "True"
    assert marker.read_bytes() == b"new"
    assert belongs(marker) == (BOB, LAB, 0o664)
    os.chown(marker, ALICE, LAB)
    assert LocalStore("main", str(shared)).mark(b"newer", replace=True)
    assert belongs(marker) == (ALICE, LAB, 0o664)
    assert [path.name for path in shared.iterdir()] == [MARKER]


def test_a_file_server_that_has_gone_is_not_taken_for_a_folder_that_is_not_there(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last answer was an error other than "no such folder"."""
    opened = LocalStore("main", str(store))
    stat = os.stat

    def gone(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(store)):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return stat(path, *more, **options)

    monkeypatch.setattr(os, "stat", gone)
    error = opened.translate_error(OSError(errno.ENOTCONN, ""), "lab/a.npy", "read")
    assert str(error).endswith("Transport endpoint is not connected")
