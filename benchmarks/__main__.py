"""
Measure, print tables, and keep what was found.

``python -m benchmarks [--quick] [--json FILE] [NAME ...]`` measures; without names, everything.
``python -m benchmarks report FILE`` writes `docs/performance.md` and its pictures from such a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    _report,
    distance,
    fileserver,
    growth,
    local,
    many,
    memory,
    migrate,
    parts,
    remote,
    upkeep,
    view,
)
from benchmarks._machine import load_average, machine
from benchmarks._measure import RUN

BENCHMARKS = {
    "distance": distance.main,
    "fileserver": fileserver.main,
    "local": local.main,
    "remote": remote.main,
    "parts": parts.main,
    "many": many.main,
    "upkeep": upkeep.main,
    "migrate": migrate.main,
    "view": view.main,
    "memory": memory.main,
    "growth": growth.main,
}
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help="one round of each: to see that it works"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep what was found")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    asked = parser.parse_args()
    if asked.names[:1] == ["report"]:
        if len(asked.names) != 2:
            parser.error("report takes the one file that a run has written by --json FILE")
        _report.write(json.loads(Path(asked.names[1]).read_text()), DOCS)
        return
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(BENCHMARKS)}")
    if asked.part:
        measure_one(asked.names[0], asked.quick, asked.part)
        return
    measure(asked.names or list(BENCHMARKS), asked.quick, asked.json)


def measure(names: list[str], quick: bool, file: Path | None) -> None:
    began, start = load_average(), time.time()
    about = machine()
    for name, text in about.items():
        print(f"{name}: {text}")
    found: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="dj-npy-") as folder:
        Path(folder).chmod(0o755)  # nginx reads as another user
        for name in names:
            print(f"\n## {name}\n", flush=True)
            part = Path(folder) / f"{name}.json"
            options = ["--quick"] if quick else []
            # Each in a process of its own: one that has measured before is not a fresh one.
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--part", str(part)]
            environment = {**os.environ, "TMPDIR": folder}
            subprocess.run([*command, *options, name], check=True, env=environment)
            found.extend(json.loads(part.read_text()))
            result = {
                "date": time.strftime("%Y-%m-%d", time.localtime(start)),
                "minutes": round((time.time() - start) / 60, 1),
                "load average": f"{began} before, {load_average()} after",
                "quick": quick,
                "machine": about,
                "found": found,
            }
            if file:  # after each, so that one that fails takes nothing with it
                file.write_text(json.dumps(result, separators=(",", ":")) + "\n")


def measure_one(name: str, quick: bool, part: Path) -> None:
    RUN.benchmark, RUN.quick = name, quick
    if quick:
        # Its 20,000 rows take 100 s.
        setattr(many, "streams", partial(many.streams, count=200))  # noqa: B010
    BENCHMARKS[name]()
    part.write_text(json.dumps(RUN.found))


if __name__ == "__main__":
    main()
