"""
A process whose system calls fail: inserts and loads under one fault after the other.

Run with ``failing.c`` preloaded. Reads faults as JSON, a line each, and writes what came of it.
"""

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np

import dj_npy
from tests.support.servers import FolderRaw

WAVEFORM = np.arange(100_000.0)


def files(store: Path) -> list[str]:
    return sorted(FolderRaw(store).keys())


def outcome(use: Callable[[], Any]) -> list[str]:
    try:
        use()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def main(library: str, table: str, store: Path, config: dict[str, Any]) -> None:
    shim = ctypes.CDLL(library)
    for name, value in config.items():
        dj.config[name] = value
    dj.logger.setLevel("ERROR")
    dj.config.stores = {"default": "main", "main": {"protocol": "file", "location": str(store)}}
    recording = dj.FreeTable(dj.conn(), table)

    def row(number: int) -> dict[str, Any]:
        return {"recording_id": number, "waveform": WAVEFORM + number}

    def insert(number: int) -> None:
        recording.insert1(row(number))

    def bulk_insert(number: int) -> None:
        dj_npy.insert(recording, [row(number)])

    def fault(
        call: str, before: int = 0, times: int = -1, code: int = 0, lost: bool = False
    ) -> None:
        shim.fail(os.fsencode(store), call.encode(), before, times, code, lost)

    insert(0)
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        asked = json.loads(line)
        dj_npy.settings.fsync = asked.get("fsync", True)
        # Another store object, of the same folder: it remembers what its disk does not know.
        renames = asked.get("renames", True)
        location = f"{store}/" if asked.get("other", not renames) else str(store)
        dj.config.stores["main"] = {"protocol": "file", "location": location}
        shim.know(asked.get("links", True), renames)
        code = getattr(errno, asked["error"]) if asked["error"] else 0
        when = asked.get("before", 0), asked.get("times", -1)
        armed = asked["call"], *when, code, asked.get("lost", False)
        before = files(store)
        if asked["use"] in ("insert", "bulk insert"):
            use = insert if asked["use"] == "insert" else bulk_insert
            fault(*armed)
            told = outcome(lambda: use(number))  # noqa: B023
        else:
            ref = (recording & "recording_id=0").fetch1("waveform")
            read: dict[str, Callable[[], Any]] = {
                "load": lambda: np.testing.assert_array_equal(ref.load(), WAVEFORM),  # noqa: B023
                "slice": lambda: np.testing.assert_array_equal(
                    ref.read(np.s_[10:9000:3]),  # noqa: B023
                    WAVEFORM[10:9000:3],
                ),
                "verify": lambda: ref.verify(),  # noqa: B023
                "copy": lambda: recording.insert1({**row(number), "waveform": ref}),  # noqa: B023
                "map": lambda: ref.load("r"),  # noqa: B023
            }
            fault(*armed)
            told = outcome(read[asked["use"]])
        happened = shim.failed()
        fault("")
        shim.know(True, True)
        left = sorted(set(files(store)) - set(before))
        rows = len(recording & {"recording_id": number})
        if not rows:  # the fault is gone
            insert(number)
        (recording & {"recording_id": number}).fetch1("waveform").verify()
        print(json.dumps({"told": told, "happened": happened, "left": left, "rows": rows}))
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
