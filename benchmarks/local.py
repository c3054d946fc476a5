"""The local store against the built-in codec, and against the bare system calls."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import cost, faster, row, scratch, side_by_side
from benchmarks.remote import Codec

MEGABYTES = 256


def main() -> None:
    """Print the table."""
    with scratch() as folder:
        print("| work | dj-npy, ms | against |\n| --- | --- | --- |")
        large_arrays(folder)


def large_arrays(location: Path) -> None:
    array = np.random.default_rng(0).standard_normal((MEGABYTES << 17) // 32 * 32).reshape(-1, 32)
    settings = {"protocol": "file", "location": str(location)}
    ours, builtin = Codec(dj_npy.NpyCodec(), settings), Codec(BuiltinNpyCodec(), settings)
    stored, stored_builtin = ours.insert(array), builtin.insert(array)
    path = location / stored["path"]

    def readinto() -> Any:
        into = np.empty(array.shape)
        with open(path, "rb", buffering=0) as file:
            file.seek(stored["offset"])
            assert file.readinto(into.data) == array.nbytes
        return into

    times = side_by_side(
        {
            "dj-npy": lambda: ours.load(stored),
            "built-in": lambda: builtin.load(stored_builtin),
            "readinto": readinto,
        },
        31,
    )
    row(
        f"load {MEGABYTES} MB",
        times,
        [faster(times, "built-in", ">= 5x"), cost(times, "readinto", "<= 1.15x")],
    )
    bare = location / "bare.npy"

    def save(sync: bool) -> Path:
        with open(bare, "wb") as file:
            np.save(file, array)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        return bare

    def inserted(codec: Codec) -> Path:
        return location / str(codec.insert(array)["path"])

    for sync, against in ((True, ">= 1.4x"), (False, ">= 4x")):
        dj_npy.settings.fsync = sync
        saved = "np.save + fsync" if sync else "np.save"
        times = side_by_side(
            {
                "dj-npy": lambda: inserted(ours),
                "built-in": lambda: inserted(builtin),
                saved: partial(save, sync),
            },
            9,
        )
        row(
            f"insert {MEGABYTES} MB, {'synced' if sync else 'DJ_NPY_FSYNC=0'}",
            times,
            [
                faster(times, "built-in", against),
                cost(times, saved, "<= 1.2x" if sync else "<= 1.4x"),
            ],
        )
    dj_npy.settings.fsync = True
