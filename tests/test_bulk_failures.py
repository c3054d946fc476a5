"""Many arrays at once, when a server dies or the user has had enough: real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from tests.servers import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    S3Raw,
    free_port,
    s3_settings,
    script,
    started,
)
from tests.test_bulk import WAVEFORM

one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

# --- the store dies --------------------------------------------------------------------------


@contextmanager
def mortal(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of S3 on a folder, and its process, to be killed."""
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [script("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with started(["sleep", "1000"], port) as url:
            yield url, process
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("what", ["insert", "load", "stream"])
@one_database
def test_the_store_dies(
    table: Callable[..., Any], stores: dict[str, Any], tmp_path: Path, what: str
) -> None:
    with mortal(tmp_path / "served") as (url, process):
        stores["mortal"] = s3_settings(url, location="")
        recording = table("n : int32\n---\nwaveform : <npy@mortal>")
        count = 60
        if what != "insert":
            dj_npy.insert(recording, [{"n": n, "waveform": WAVEFORM} for n in range(count)])
        refs = recording.to_arrays("waveform") if what != "insert" else []
        begun = [0.0]

        def several(items: Any) -> Iterator[Any]:
            for n, item in enumerate(items):
                if n == 30:
                    process.kill()
                    process.wait(30)
                    begun[0] = time.monotonic()
                yield item

        with pytest.raises(dj_npy.StoreError, match=r"could not (read|write)"):
            if what == "insert":
                dj_npy.insert(
                    recording, several({"n": n, "waveform": WAVEFORM} for n in range(200))
                )
            elif what == "load":
                list(dj_npy.load(several(refs)))
            else:
                list(dj_npy.stream(several(refs), max_bytes="1 kB"))
        print(f"{time.monotonic() - begun[0]:.1f} s")
        assert len(recording()) == (0 if what == "insert" else count)
