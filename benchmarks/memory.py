"""Memory above the array itself, each figure in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import RUN, peak_memory, scratch
from benchmarks.remote import Codec, nginx, s3
from tests.support.servers import rclone

MEGABYTES = 256
GOAL = "<= 16 MiB"
CODECS = {"dj-npy": dj_npy.NpyCodec, "built-in": BuiltinNpyCodec}


def main() -> None:
    """Print the table."""
    with scratch() as folder:
        local = {"protocol": "file", "location": str(folder / "local")}
        (folder / "local").mkdir()
        print("| memory above the array itself, MiB | dj-npy, built-in |\n| --- | --- |")
        with rclone(folder / "rclone") as url, nginx(folder / "rclone") as read_only:
            for contiguous in (True,) if RUN.quick else (True, False):
                insert_and_load({"local": local}, contiguous)
                insert_and_load({"S3 (rclone)": s3(url), "S3 (nginx)": s3(read_only)}, contiguous)


def insert_and_load(stores: dict[str, dict[str, Any]], contiguous: bool) -> None:
    """Into the first, and from each: they serve the same files."""
    where = next(iter(stores))
    tasks: dict[str, dict[str, Any]] = {
        name: {"codec": name, "settings": stores[where], "contiguous": contiguous}
        for name in CODECS
    }
    inserted = {name: in_a_process(task) for name, task in tasks.items()}
    what = f"{MEGABYTES} MB" if contiguous else f"{MEGABYTES // 2} MB, not contiguous"
    report(f"insert {what}, {where}", {name: above for name, (above, _) in inserted.items()})
    for where, settings in stores.items():
        above = {}
        for name, task in tasks.items():
            stored = inserted[name][1]
            above[name], _ = in_a_process({**task, "settings": settings, "stored": stored})
        report(f"load {what}, {where}", above)


def report(work: str, above: dict[str, int], goal: str = GOAL) -> None:
    RUN.add("memory", work=work, above=above, goal=goal)
    told = ", ".join(f"{each / 2**20:.1f}" for each in above.values())
    print(f"| {work} | {told} ({goal}) |", flush=True)


def in_a_process(task: dict[str, Any]) -> tuple[int, Any]:
    """Bytes above the array itself, and what the rows of inserted arrays say."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", json.dumps(task)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    above, stored = json.loads(told)
    return above, stored


def child(task: dict[str, Any]) -> tuple[int, Any]:
    """Insert, or load what is `stored`; a small one before, for libraries and connections."""
    codec = Codec(CODECS[task["codec"]](), task["settings"])
    if "stored" in task:
        small, large = task["stored"]
        codec.load(small)
        with peak_memory() as peak:
            loaded = codec.load(large)
        return peak[0] - loaded.nbytes, None
    small = codec.insert(np.zeros(3))
    array = np.arange(MEGABYTES << 17, dtype="f8")
    if not task["contiguous"]:
        array = array.reshape(2, -1)[:, ::2].T[::-1]
    with peak_memory() as peak:
        large = codec.insert(array)
    return peak[0], [small, large]


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
