"""``dj-npy verify`` and ``dj-npy collect`` as processes, and DataJoint's own `dj.gc` beside us."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import psutil
import pytest

import dj_npy
from dj_npy._cli import main as _cli
from tests.cli.test_cli import command, environment
from tests.conftest import run
from tests.support.servers import files
from tests.upkeep.test_collect import paths

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


# --- the command line ------------------------------------------------------------------------


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_commands_as_processes(rows: Any, schema: Any, database: Any, store: Path) -> None:
    env = environment(database)
    result = command("verify", schema.database, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert "6 as described" in result.stdout
    (rows & "recording_id < 2").delete(prompt=False)
    result = command("collect", schema.database, "--older-than", "0", "--delete", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert files(store) == paths(rows)


def test_verify_exits_with_1_if_something_is_damaged(
    rows: Any, schema: Any, store: Path, dj_npy_command: Run
) -> None:
    result = dj_npy_command("verify", schema.database)
    assert (result.returncode, result.stderr) == (0, "")
    assert "6 as described" in result.stdout
    file = store / (rows & "recording_id=2").fetch1("waveform").path
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    assert dj_npy_command("verify", schema.database).returncode == 0
    result = dj_npy_command("verify", schema.database, "--checksums", "--json")
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["counts"] == {"as inserted": 5, "other bytes": 1}
    assert found["findings"][0]["key"] == {"recording_id": 2}


def test_collect_removes_only_with_delete(
    rows: Any, schema: Any, store: Path, dj_npy_command: Run
) -> None:
    (rows & "recording_id < 2").delete(prompt=False)
    before = files(store)
    result = dj_npy_command("collect", schema.database, "--older-than", "0")
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 orphans" in result.stdout
    assert "dry run" in result.stdout
    assert dj_npy_command("collect", schema.database, "--delete").returncode == 0  # all young
    assert files(store) == before
    arguments = ("--older-than", "0s", "--store", "main", "--delete", "--json")
    result = dj_npy_command("collect", schema.database, *arguments)
    assert json.loads(result.stdout)["removed"] == 2
    assert files(store) == paths(rows)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verify"], 2),
        (["collect"], 2),
        (["collect", "lab", "--older-than", "yesterday"], 2),
        (["collect", "lab", "--older-than", "9999999999999w"], 2),
        (["verify", "no_such_schema"], 1),
        (["collect", "no_such_schema"], 1),
    ],
)
def test_what_was_called_wrongly_is_told_in_the_exit_code(
    postgresql: Any, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(arguments) == code
    assert capsys.readouterr().err


# --- dj.gc -----------------------------------------------------------------------------------

PREFIXES = {"none": {}, "empty": {"schema_prefix": ""}, "raw": {"schema_prefix": "raw"}}


def collected(schema: Any, store: str | None = None) -> Any:
    return dj.gc.GarbageCollector(schema, store=store).collect(dry_run=False)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", [None, "main"])
def test_datajoint_s_own_collection_removes_no_live_file(
    schema: Any, table: Callable[..., Any], database: Any, store: Path, prefix: str,
    name: str | None,
) -> None:  # fmt: skip
    database.config.stores["main"] |= PREFIXES[prefix]
    attribute = "<npy@>" if name is None else f"<npy@{name}>"
    recording = table(f"recording_id : int32\n---\nwaveform : {attribute}")
    rows = [{"recording_id": n, "waveform": WAVEFORM} for n in range(6)]
    recording.insert(rows)
    recording.insert(rows[:3], skip_duplicates=True)  # orphans, with tokens
    (recording & "recording_id > 3").delete(prompt=False)  # orphans, with plain names
    before = files(store)
    collected(schema, name)
    assert files(store) == before  # all of it is left to `collect`
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": 4}
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 5
    assert files(store) == paths(recording)


def test_a_row_that_is_inserted_while_it_collects_keeps_its_file(
    schema: Any, table: Callable[..., Any], database: Any, store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It reads the rows first, and lists the store afterwards."""
    database.config.stores["main"] |= {"schema_prefix": "raw"}
    recording = table("recording_id : int32\n---\nwaveform : <npy@>")
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    original = dj.gc.GarbageCollector.schema_references

    def schema_references(self: Any, verbose: bool = False) -> Any:
        found = original(self, verbose)
        recording.insert1({"recording_id": 2, "waveform": WAVEFORM})
        return found

    monkeypatch.setattr(dj.gc.GarbageCollector, "schema_references", schema_references)
    collected(schema)
    assert dj_npy.verify(recording, checksums=True).counts == {"as inserted": 2}


def test_a_built_in_file_that_another_schema_shares_stays(
    schema: Any, table: Callable[..., Any], database: Any, store: Path
) -> None:
    """`INSERT ... SELECT` has copied its row; `dj.gc` looks at one schema."""
    old = table("recording_id : int32\n---\nwaveform : <npy@main>", "Old")
    folder = store / "_schema" / schema.database / "old" / "recording_id=1"
    folder.mkdir(parents=True)
    for name in ("waveform_x7Kd93Lq.npy", "waveform_orphaned.npy"):
        np.save(folder / name, WAVEFORM)
    path = str((folder / "waveform_x7Kd93Lq.npy").relative_to(store))
    row = {"path": path, "store": "main", "dtype": "float64", "shape": [3, 4]}
    quote = old.connection.adapter.quote_identifier
    old.connection.query(
        f"INSERT INTO {old.full_table_name} (recording_id, {quote('waveform')}) VALUES (1, %s)",
        (json.dumps(row),),
    )
    other = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:
        copied = other(type("Copied", (dj.Manual,), {"definition": old.definition}))
        copied.insert(old.proj("waveform"))
        old.delete(prompt=False)
        collected(schema)
        assert files(store) == {path}
        np.testing.assert_array_equal(copied.fetch1("waveform").load(), WAVEFORM)
    finally:
        other.drop(prompt=False)


# --- memory ----------------------------------------------------------------------------------

COUNT = int(os.environ.get("DJ_NPY_TEST_ROWS", "20000"))
"""How many rows, and files, memory is measured with; the long form is 1,000,000, everywhere."""
PLACES = [("postgresql", "store"), ("mariadb", "case_blind")]
if COUNT >= 1_000_000:
    PLACES += [("mariadb", "store"), ("mysql", "store"), ("postgresql", "case_blind")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "disk"), PLACES)
def test_memory_does_not_grow_with_rows_or_files(
    request: pytest.FixtureRequest, name: str, disk: str
) -> None:
    """Half of the rows have their file, half of the files have no row."""
    database, count = request.getfixturevalue(name), COUNT
    if disk == "case_blind":
        # A cluster a file and one a folder; and exFAT looks through a folder from its beginning.
        count //= 20
        store = request.getfixturevalue("large_case_blind_disk") / uuid.uuid4().hex
        store.mkdir()
    else:
        store = request.getfixturevalue("store")
    database.config.stores, before = (
        {"default": "main", "main": {"protocol": "file", "location": str(store)}},
        database.config.stores,
    )
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:
        definition = {"definition": "n : int32\n---\nwaveform : <npy@>"}
        many = schema(type("Many", (dj.Manual,), definition))
        many.insert1({"n": 0, "waveform": WAVEFORM})
        folder = store / schema.database / "many"
        one = folder / "n=0" / "waveform.npy"
        data = one.read_bytes()
        for n in range(1, count):
            file = folder / f"n={n}" / "waveform.npy"
            file.parent.mkdir()
            if disk == "store" and n % 50_000:  # a file has so many names at most
                os.link(one, file)
            else:
                file.write_bytes(data)
                one = file
        number = "n + {0}"
        path = f"CONCAT('{schema.database}/many/n=', {number}, '/waveform.npy')"
        described = (
            f"jsonb_set(waveform, '{{{{path}}}}', to_jsonb({path}))"
            if name == "postgresql"
            else f"JSON_SET(waveform, '$.path', {path})"
        )
        added = 2
        while added < 2 * count:
            many.connection.query(
                f"INSERT INTO {many.full_table_name} (n, waveform) "
                f"SELECT {number}, {described} FROM {many.full_table_name} "
                f"WHERE n < {2 * count} - {added}".format(added)
            )
            added *= 2
        small = dj_npy.verify(many & "n < 100")
        assert small.checked == 50
        process = psutil.Process()
        start = process.memory_info().rss, time.monotonic()
        report = dj_npy.verify(many)
        verified = process.memory_info().rss, time.monotonic()
        assert report.counts == {"as described": count // 2, "missing": count // 2}
        found = dj_npy.collect(schema, older_than=NOW)
        collected = process.memory_info().rss, time.monotonic()
        assert (found.live, found.counts) == (count // 2, {"array": count // 2})
        print(
            f"{name}, {disk}, {count:,} rows and as many files: verify "
            f"{verified[1] - start[1]:.1f} s, {(verified[0] - start[0]) / 2**20:.0f} MiB; collect "
            f"{collected[1] - verified[1]:.1f} s, {(collected[0] - verified[0]) / 2**20:.0f} MiB"
        )
        # The first 10,000 findings of each are held.
        assert verified[0] - start[0] < 64 << 20
        assert collected[0] - verified[0] < 64 << 20
    finally:
        schema.drop(prompt=False)
        database.config.stores = before
        run(["rm", "-rf", str(store)])
