"""A file server: every call about a file begins a millisecond later."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datajoint as dj

import dj_npy
from benchmarks._measure import RUN, cost, row, scratch, side_by_side
from benchmarks._recordings import recordings

FILES, DELAY_US = 500, 1000


def main() -> None:
    """Print the table, measured in a process of its own, whose C library is slowed."""
    with scratch() as folder:
        library, source = folder / "slow.so", Path(__file__).with_name("slow.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        slow, found = folder / "slow", folder / "found.json"
        slow.mkdir()
        calls = {"LD_PRELOAD": str(library), "SLOW_FOLDER": str(slow), "SLOW_US": str(DELAY_US)}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fileserver"]
        command += [str(folder), str(found), *(["--quick"] if RUN.quick else [])]
        subprocess.run(command, check=True, env={**os.environ, **calls})
        RUN.found += json.loads(found.read_text())


def measure(folder: Path) -> None:
    print(f"| file server, {DELAY_US} us a call | dj-npy, ms | against |\n| --- | --- | --- |")
    dj.logger.setLevel("ERROR")
    dj_npy.embedded.start(folder / "embedded")
    with recordings({"protocol": "file", "location": str(folder / "slow")}) as of:
        dj_npy.insert(of.table, of.rows(FILES))
        refs = of.table.to_arrays("waveform")
        paths = [folder / "slow" / ref.path for ref in refs]

        def ours() -> Any:
            arrays = dj_npy.load(refs)
            for ref in refs:
                ref.unload()
            return arrays

        def bare(path: Path) -> bytes:
            with open(path, "rb", buffering=0) as file:
                return file.read()

        def in_threads() -> Any:
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(bare, paths))

        others = "open + read in 16 threads"
        times = side_by_side({"dj-npy": ours, others: in_threads}, 15)
        row(f"load {FILES} arrays of 25 kB", times, [cost(times, others, "<= 1.5x")])
        times = side_by_side(
            {
                "dj-npy": lambda: of.insert(FILES),
                "dj_npy.insert": lambda: dj_npy.insert(of.table, of.rows(FILES)),
                "built-in": lambda: of.insert_builtin(FILES),
            },
            5,
        )
        row(
            "`Table.insert` of the same",
            times,
            [cost(times, "dj_npy.insert", "no goal"), cost(times, "built-in", "<= 1x")],
        )


if __name__ == "__main__":
    RUN.benchmark, RUN.quick = "fileserver", sys.argv[3:] == ["--quick"]
    measure(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(RUN.found))
