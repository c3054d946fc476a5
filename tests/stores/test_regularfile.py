"""What has the name of a file and is none: told at once, whoever opens it."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy import NpyError, NpyRef, StoreError
from dj_npy._cli import main as _cli
from dj_npy._stores.base import MARKER
from dj_npy._stores.regularfile import open_regular, open_to_read
from tests.datajoint.test_codec import WAVEFORM

Stored = Callable[..., NpyRef]


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, 0o20600, os.makedev(1, 5))  # as /dev/zero


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "FIFO": (os.mkfifo, "not a file, but a FIFO"),
    "socket": (bind, "not a file, but a socket"),
    "device": (make_device, "not a file, but a device"),
    "folder": (Path.mkdir, "Is a directory"),
}


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Nobody waits for the other end of a FIFO."""

    def too_late(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("array", [WAVEFORM, np.zeros((1 << 20, 2))], ids=["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told_by_every_use(
    stored: Stored, store: Path, kind: str, array: Any
) -> None:
    ref = stored(array)
    make, said = KINDS[kind]
    (store / ref.path).unlink()
    make(store / ref.path)
    uses: list[Callable[[], Any]] = [
        ref.load,
        ref.verify,
        lambda: ref[0],
        lambda: ref.read(np.s_[3:5]),
        lambda: next(ref.blocks("1 MiB")),
        lambda: ref.load("r"),
        lambda: ref.load("c"),
        lambda: ref.load("r+"),
        lambda: dj_npy.load([ref, ref]),
        lambda: stored(ref, 2),
    ]
    for use in uses:
        with pytest.raises(StoreError, match=said):
            use()


def test_a_file_that_is_sliced_again_and_again_and_replaced(stored: Stored, store: Path) -> None:
    ref = stored(np.zeros((1 << 20, 2)))
    for _ in range(5):
        assert ref[3:5].shape == (2, 2)
    (store / ref.path).unlink()
    os.mkfifo(store / ref.path)
    with pytest.raises(StoreError, match="a FIFO"):
        ref[3:5]


def test_a_marker_that_is_a_fifo(recording: Any, store: Path) -> None:
    os.mkfifo(store / MARKER)
    for insert in (recording.insert1, lambda row: dj_npy.insert(recording, [row])):
        with pytest.raises(StoreError, match="a FIFO"):
            insert({"recording_id": 1, "waveform": WAVEFORM})
    assert len(recording()) == 0


def test_verify_and_collect_do_not_wait(recording: Any, schema: Any, store: Path) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(3)])
    refs = recording.to_arrays("waveform", order_by="recording_id")
    (store / refs[1].path).unlink()
    os.mkfifo(store / refs[1].path)
    for checksums in (False, True):
        report = dj_npy.verify(recording, checksums=checksums)
        assert not report.ok
        [finding] = report.findings
        assert finding.what == "unreadable"
        assert "a FIFO" in finding.message
    (recording & "recording_id = 1").delete(prompt=False)
    dj_npy.collect(schema, older_than=timedelta(0), dry_run=False)
    assert (store / refs[1].path).is_fifo()  # it is none of ours
    assert not refs[0].load().flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_info_of_a_path(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, _ = KINDS[kind]
    make(tmp_path / "x.npy")
    assert _cli.main(["info", str(tmp_path / "x.npy")]) == 1
    output, error = capsys.readouterr()
    assert not output
    assert f"not a file, but a {kind}" in error


def test_links_to_a_fifo(stored: Stored, store: Path, tmp_path: Path) -> None:
    ref = stored(WAVEFORM)
    os.mkfifo(tmp_path / "fifo")
    (store / ref.path).unlink()
    (store / ref.path).symlink_to(tmp_path / "fifo")
    for use in (ref.load, ref.verify, lambda: ref.load("r")):
        with pytest.raises(StoreError, match="a FIFO"):
            use()
    with pytest.raises(NpyError):
        ref.load("r+")


def test_a_file_is_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"contents")
    with open_to_read(str(path)) as file:
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
        assert file.read() == b"contents"
    descriptors = len(os.listdir("/proc/self/fd"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a FIFO"):
        open_regular(str(tmp_path / "fifo"), os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == descriptors


HOLDER = """
import fcntl, os, signal, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
def asked(*_):
    print("asked", flush=True)
    time.sleep(0.3)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, asked)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", [None, "r", "r+"])
def test_a_file_that_a_server_has_lent_to_a_client_is_waited_for(
    stored: Stored, store: Path, mode: Any
) -> None:
    """Samba and the server of NFS take a lease on it: opening it asks them to hand it back."""
    ref = stored(WAVEFORM)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store / ref.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n"
        assert np.array_equal(ref.load(mode), WAVEFORM)
        assert holder.stdout.readline() == "asked\n"
    finally:
        holder.communicate("")
