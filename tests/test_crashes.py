"""Processes that insert are killed at random moments: every row has its whole file."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest

from tests.test_codec import files

SECONDS = float(os.environ.get("DJ_NPY_TEST_SECONDS", "8"))
"""How long the processes are killed for; `.ci/run` says 60."""

INSERTER = """
import json, sys
import datajoint as dj, dj_npy
import numpy as np
table, me, config = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, value in config.items():
    dj.config[name] = value
dj.logger.setLevel("ERROR")
dj.config.stores = {"default": "main", "main": {"protocol": "file", "location": sys.argv[4]}}
recording = dj.FreeTable(dj.conn(), table)
print("ready", flush=True)
random = np.random.default_rng()
for n in range(10**9):
    size = int(random.choice([10, 10_000, 500_000]))
    recording.insert1({"worker": me, "n": n, "waveform": random.standard_normal(size)})
"""


def start(recording: Any, store: Path) -> subprocess.Popen[str]:
    connection = recording.connection.conn_info
    config = {
        "database.backend": "postgresql",
        "database.host": connection["host"],
        "database.port": connection["port"],
        "database.user": connection["user"],
        "database.password": connection["passwd"],
        "database.use_tls": False,
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INSERTER]
        + [recording.full_table_name, uuid.uuid4().hex, json.dumps(config), str(store)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def recording(postgresql: Any, store: Path) -> Any:
    before = postgresql.config.stores
    postgresql.config.stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(store)},
    }
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")

    @schema
    class Recording(dj.Manual):
        definition = "worker : varchar(32)\nn : int32\n---\nwaveform : <npy@>"

    yield Recording()
    schema.drop(prompt=False)
    postgresql.config.stores = before


def test_every_row_has_its_whole_file_whenever_a_writer_is_killed(
    recording: Any, store: Path
) -> None:
    end = time.monotonic() + SECONDS
    kills = 0
    writers = [start(recording, store) for _ in range(2)]
    while time.monotonic() < end:
        for n, writer in enumerate(writers):
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"  # or it would be killed too early
            time.sleep(random.uniform(0.01, 0.7))
            assert writer.poll() is None, "it ended by itself"
            writer.kill()
            writer.communicate()
            kills += 1
            writers[n] = start(recording, store)
    for writer in writers:
        writer.kill()
        writer.communicate()
    rows = recording.to_dicts()
    for row in rows:
        row["waveform"].verify()
    paths = {row["waveform"].path for row in rows}
    orphans = files(store) - paths
    print(f"{kills} kills, {len(rows)} rows, {len(orphans)} files without a row")
    assert kills >= 4
    assert len(paths) == len(rows) > kills
    assert paths <= files(store)
    # At most what a writer had in its hands when it was killed.
    assert len(orphans) <= kills + 2
