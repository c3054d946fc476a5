"""Names that some disk or server takes for one: the file of a row is never taken for an orphan."""

import itertools
import os
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from tests.test_collect import NOW, files

SCAN = "subject : varchar(8)\nscan : int32\n---\nimage = null : <npy@>\nwaveform = null : <npy@>"
WAVEFORM = np.arange(12.0)
OLD = 2 * 86400


@pytest.fixture
def blind(case_blind_disk: Path, database: Any, stores: dict[str, Any]) -> Path:
    """The store `main`, on a disk that is blind to case."""
    folder = case_blind_disk / uuid.uuid4().hex[:8]
    folder.mkdir()
    database.config.stores = {**stores, "main": {"protocol": "file", "location": str(folder)}}
    return folder


def make_old(folder: Path) -> None:
    for path in folder.rglob("*.npy"):
        then = path.stat().st_mtime - OLD
        os.utime(path, (then, then))


def sound(*tables: Any) -> bool:
    return all(dj_npy.verify(table, checksums=True).ok for table in tables)


@pytest.mark.parametrize("older_than", [NOW, timedelta(days=1)])
def test_keys_that_differ_in_case_share_a_folder(
    blind: Path, table: Callable[..., Any], schema: Any, older_than: timedelta
) -> None:
    scan = table(SCAN, "Scan")
    scan.insert1({"subject": "M1", "scan": 1, "waveform": WAVEFORM})
    scan.insert1({"subject": "m1", "scan": 2, "waveform": WAVEFORM})
    scan.insert1({"subject": "m1", "scan": 3, "image": WAVEFORM})
    scan.insert1({"subject": "M2", "scan": 1, "image": WAVEFORM})
    (scan & "subject = 'M2'").delete(prompt=False)
    make_old(blind)
    found = dj_npy.collect(schema, older_than=older_than, dry_run=False)
    assert (found.live, found.unknown, found.removed) == (3, 0, 1)
    assert sound(scan)


def test_a_row_whose_folder_another_has_made(
    blind: Path, table: Callable[..., Any], schema: Any
) -> None:
    """The token of a name is a checksum of the path as its row has it, not as it is listed."""
    scan = table(SCAN, "Scan")
    scan.insert1({"subject": "M1", "scan": 1, "waveform": WAVEFORM})
    scan.delete(prompt=False)
    scan.insert1({"subject": "m1", "scan": 1, "waveform": WAVEFORM, "image": WAVEFORM})
    row = scan.fetch1()
    assert "/subject=m1/scan=1/waveform_" in row["waveform"].path
    assert row["image"].path.endswith("/subject=m1/scan=1/image.npy")
    assert len(list(blind.rglob("subject=M1/scan=1/*.npy"))) == 3
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.live, found.unknown, found.removed) == (2, 0, 1)
    assert sound(scan)


def test_a_table_and_an_attribute_of_another_case(
    blind: Path, table: Callable[..., Any], schema: Any
) -> None:
    """The folders of a table that somebody has copied from elsewhere."""
    scan = table(SCAN, "Scan")
    scan.insert1({"subject": "a", "scan": 1, "waveform": WAVEFORM})
    folder = blind / schema.database / "scan"
    (folder / "subject=a").rename(folder / "aside")
    (folder / "aside").rename(folder / "SUBJECT=A")
    folder.rename(folder.with_name("aside"))
    folder.with_name("aside").rename(folder.with_name("SCAN"))
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 0
    assert sound(scan)


@pytest.mark.parametrize("within", ["subject=1", "subject=archive", "subject=2/deep"])
@pytest.mark.parametrize("partition", ["", "{subject}", "{subject}/{scan}"])
@pytest.mark.parametrize("collected", [None, "outer", "inner"])
def test_a_store_within_another(
    table: Callable[..., Any], schema: Any, database: Any, store: Path, within: str,
    partition: str, collected: str | None,
) -> None:  # fmt: skip
    (store / within).mkdir(parents=True)
    outer = {"protocol": "file", "location": str(store), "partition_pattern": "{subject}"}
    inner = {"protocol": "file", "location": str(store / within), "partition_pattern": partition}
    database.config.stores.update(outer=outer, inner=inner)
    nested = table(
        "subject : varchar(8)\nscan : int32\n---\na : <npy@outer>\nb : <npy@inner>", "Nested"
    )
    for subject, scan in itertools.product(["1", "2", "archive"], [1, 2, 3]):
        nested.insert1({"subject": subject, "scan": scan, "a": WAVEFORM, "b": WAVEFORM})
    (nested & "scan = 3").delete(prompt=False)
    found = dj_npy.collect(schema, store=collected, older_than=NOW, dry_run=False)
    assert sound(nested)
    assert found.removed
    if collected is None:
        assert len(files(store)) == 2 * len(nested())


def test_a_store_within_a_bucket_s_other(
    table: Callable[..., Any], schema: Any, database: Any, moto: str
) -> None:
    from tests.servers import s3_settings

    outer = s3_settings(moto)
    inner = {**outer, "location": f"{outer.get('location') or ''}/subject=1".strip("/")}
    database.config.stores.update(outer={**outer, "partition_pattern": "{subject}"}, inner=inner)
    nested = table("subject : int32\n---\na : <npy@outer>\nb : <npy@inner>", "Nested")
    nested.insert({"subject": n, "a": WAVEFORM, "b": WAVEFORM} for n in (1, 2, 3))
    (nested & "subject = 3").delete(prompt=False)
    for name in ("outer", "inner", None):
        dj_npy.collect(schema, store=name, older_than=NOW, dry_run=False)
        assert sound(nested)
