"""The local store against the built-in codec, and against the bare system calls."""

import itertools
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import cost, faster, peak_memory, row, side_by_side

MEGABYTES = 256


def main() -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    try:
        dj.logger.setLevel("ERROR")
        dj_npy.embedded.start(folder / "embedded")
        location = folder / "embedded" / "store"
        print("| work | dj-npy, ms | against |\n| --- | --- | --- |")
        large_arrays(location)
        memory(location)
    finally:
        # The server stops at exit; its folder goes with it.
        shutil.rmtree(location, ignore_errors=True)


class Codec:
    """A codec as a table would call it."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self._numbers = itertools.count()
        self._table = type(codec).__module__.split(".")[0]
        self._context = {"config": dj.config, "schema": "bench", "table": self._table, "field": "a"}

    def insert(self, array: Any) -> Any:
        key = {"id": next(self._numbers)}
        return self._codec.encode(array, key=key, context=self._context, store_name="main")

    def load(self, metadata: Any) -> Any:
        return self._codec.decode(metadata, context=self._context).load()


def large_arrays(location: Path) -> None:
    array = np.random.default_rng(0).standard_normal((MEGABYTES << 17) // 32 * 32).reshape(-1, 32)
    ours, builtin = Codec(dj_npy.NpyCodec()), Codec(BuiltinNpyCodec())
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


def memory(location: Path) -> None:
    array = np.random.default_rng(0).standard_normal(MEGABYTES << 17)
    strided = array.reshape(2, -1)[:, ::2].T[::-1]
    ours, builtin = Codec(dj_npy.NpyCodec()), Codec(BuiltinNpyCodec())
    print("\n| memory above the array itself, MiB | insert | load |\n| --- | --- | --- |")
    for name, codec, each in (
        ("dj-npy (<= 16)", ours, array),
        ("dj-npy, not contiguous (<= 16)", ours, strided),
        ("built-in", builtin, array),
        ("built-in, not contiguous", builtin, strided),
    ):
        with peak_memory() as inserting:
            stored = codec.insert(each)
        with peak_memory() as loading:
            loaded = codec.load(stored)
        above = loading[0] - loaded.nbytes
        print(f"| {name} | {inserting[0] / 2**20:.1f} | {above / 2**20:.1f} |")
        (location / stored["path"]).unlink()
        del loaded
