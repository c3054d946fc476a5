"""Names that some disk or server takes for one: the file of a row is never taken for an orphan."""

import itertools
import os
import shutil
import subprocess
import sys
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dj_npy
from dj_npy._datajoint.catalog import Snapshot
from dj_npy._format.aliases import Listing, folded
from dj_npy._format.layout import Column, Layout
from dj_npy._format.path import array_path, with_token
from dj_npy._stores import Listed, filecache
from dj_npy._upkeep.collection import Collection
from dj_npy._upkeep.dropped import Dropped
from dj_npy._upkeep.inventory import Inventory, Place
from tests.conftest import connected_instance, run
from tests.datajoint.test_codec import built_in_codec
from tests.support.servers import files, free_port, s3_settings
from tests.upkeep.test_collect import NOW, folders

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


NESTINGS = list(
    itertools.product(
        ["subject=1", "subject=archive", "subject=2/deep"],
        ["", "{subject}", "{subject}/{scan}"],
        [None, "outer", "inner"],
    )
)


@pytest.mark.parametrize(
    ("database", "within", "partition", "collected"),
    [
        *(("postgresql", *nesting) for nesting in NESTINGS),
        # Of a database it takes the rows only: each value once.
        *((name, *nesting) for name in ("mariadb", "mysql") for nesting in NESTINGS[::13]),
    ],
    indirect=["database"],
)
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
    keys = itertools.product(["1", "2", "archive"], [1, 2, 3])
    nested.insert([{"subject": s, "scan": n, "a": WAVEFORM, "b": WAVEFORM} for s, n in keys])
    (nested & "scan = 3").delete(prompt=False)
    found = dj_npy.collect(schema, store=collected, older_than=NOW, dry_run=False)
    assert sound(nested)
    assert found.removed
    if collected is None:
        left = [each for each in files(store) if not each.endswith(".dj-npy-store")]  # the inner's
        assert len(left) == 2 * len(nested())


def test_a_link_within_a_store_leads_to_another(
    table: Callable[..., Any], schema: Any, database: Any, store: Path, tmp_path: Path
) -> None:
    """So a store is spread over several disks; where it leads, nothing is called as in the row."""
    disk = tmp_path / "disk"
    partitioned = {"protocol": "file", "partition_pattern": "{subject}"}
    (disk / "subject=moved").mkdir(parents=True)
    (store / "subject=1").symlink_to(disk / "subject=moved")
    database.config.stores.update(
        spread={**partitioned, "location": str(store)},
        disk={**partitioned, "location": str(disk)},
    )
    scan = table("subject : varchar(8)\nscan : int32\n---\nwaveform : <npy@spread>", "Scan")
    scan.insert([{"subject": "1", "scan": n, "waveform": WAVEFORM} for n in (1, 2)])
    (scan & "scan = 2").delete(prompt=False)
    assert dj_npy.collect(schema, store="disk", older_than=NOW, dry_run=False).removed == 1
    assert sound(scan)


def test_a_folder_where_a_store_begins_stays(
    table: Callable[..., Any], schema: Any, database: Any, store: Path
) -> None:
    scan = table("scan : int32\n---\nwaveform : <npy@>", "Scan")
    scan.insert([{"scan": n, "waveform": WAVEFORM} for n in (1, 2)])
    within = store / schema.database / "scan" / "scan=1"
    database.config.stores["within"] = {"protocol": "file", "location": str(within)}
    scan.delete(prompt=False)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=2).removed == 2
    assert {name.rpartition("/")[2] for name in folders(store)} == {
        schema.database, "scan", "scan=1"
    }  # fmt: skip
    other = table("scan : int32\n---\nwaveform : <npy@within>", "Other")
    other.insert1({"scan": 1, "waveform": WAVEFORM})
    assert sound(other)


def test_a_store_within_a_bucket_s_other(
    table: Callable[..., Any], schema: Any, database: Any, moto: str
) -> None:
    outer = s3_settings(moto)
    inner = {**outer, "location": f"{outer.get('location') or ''}/subject=1".strip("/")}
    database.config.stores.update(outer={**outer, "partition_pattern": "{subject}"}, inner=inner)
    nested = table("subject : int32\n---\na : <npy@outer>\nb : <npy@inner>", "Nested")
    nested.insert({"subject": n, "a": WAVEFORM, "b": WAVEFORM} for n in (1, 2, 3))
    (nested & "subject = 3").delete(prompt=False)
    for name in ("outer", "inner", None):
        dj_npy.collect(schema, store=name, older_than=NOW, dry_run=False)
        assert sound(nested)


# --- dj.gc -----------------------------------------------------------------------------------


def test_datajoint_s_own_collection_spares_another_spelling(
    blind: Path, table: Callable[..., Any], schema: Any, database: Any
) -> None:
    """It matches exact paths; a file of its own codec is not left to `collect`."""
    database.config.stores["main"]["schema_prefix"] = "raw"
    scan = table(SCAN, "Scan")
    scan.insert1({"subject": "M1", "scan": 1, "waveform": WAVEFORM})
    with built_in_codec():
        scan.insert1({"subject": "m1", "scan": 2, "waveform": WAVEFORM})
    dj.gc.GarbageCollector(schema, store="main").collect(dry_run=False)
    assert sound(scan)


# --- A server that is blind to case ----------------------------------------------------------


@pytest.fixture(scope="module")
def caseless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MariaDB as it is set up on Windows."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    if not (server and install):
        pytest.skip("MariaDB is not installed: apt-get install mariadb-server-core")
    folder, port = tmp_path_factory.mktemp("caseless"), free_port()
    owner = ["--user=root"] if os.geteuid() == 0 else []
    where = [f"--datadir={folder / 'data'}", f"--tmpdir={folder}", "--lower-case-table-names=1"]
    prepare = ["--no-defaults", "--auth-root-authentication-method=normal", *where, *owner]
    run([install, *prepare])
    address = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 's'}"]
    process = subprocess.Popen(
        [server, "--no-defaults", *where, *owner, *address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield connected_instance(port)
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["", "{subject}"])
@pytest.mark.parametrize("called", ["MixedLab", "mixedlab", "MIXEDLAB"])
def test_a_server_that_writes_names_small(
    caseless: Any, store: Path, partition: str, called: str
) -> None:
    main = {"protocol": "file", "location": str(store), "partition_pattern": partition}
    caseless.config.stores = {"default": "main", "main": main}
    caseless.connection.query("DROP DATABASE IF EXISTS MixedLab")  # DataJoint's `drop` fails
    schema = caseless.Schema("MixedLab")
    scan = schema(type("Scan", (dj.Manual,), {"definition": SCAN}))
    scan.insert([{"subject": "a", "scan": n, "waveform": WAVEFORM} for n in range(4)])
    (scan & "scan > 1").delete_quick()
    (store / "OtherLab/scan/subject=a/scan=1").mkdir(parents=True)
    (store / "OtherLab/scan/subject=a/scan=1/waveform.npy").write_bytes(b"another lab's")
    given = caseless.Schema(called)
    assert dj_npy.verify(given).counts == {"as described": 2}
    found = dj_npy.collect(given, older_than=NOW, dry_run=False)
    assert (found.live, found.removed) == (2, 2)
    assert sound(scan)
    dj.gc.GarbageCollector(given, store="main").collect(dry_run=False)
    assert sound(scan)
    assert len(files(store)) == 3
    with pytest.raises(dj_npy.ArrayInvalidError, match="no schema 'MixedLab2'"):
        dj_npy.collect(caseless.Schema("MixedLab2"))


def test_a_server_that_compares_names_small(
    mariadb: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: the catalogue has them as they were first written."""
    monkeypatch.setattr(mariadb.config, "stores", {
        "default": "main", "main": {"protocol": "file", "location": str(store)},
    })  # fmt: skip
    name = f"Mixed_{uuid.uuid4().hex[:8]}"
    schema = mariadb.Schema(name)
    scan = schema(type("Scan", (dj.Manual,), {"definition": SCAN}))
    scan.insert([{"subject": "a", "scan": n, "waveform": WAVEFORM} for n in range(2)])
    (scan & "scan = 1").delete(prompt=False)
    monkeypatch.setattr(Snapshot, "caseless", True)
    (store / name).rename(store / name.lower())  # as another process has called it
    monkeypatch.setattr(dj, "conn", lambda: mariadb.connection)
    found = dj_npy.collect(name.lower(), older_than=NOW, dry_run=False)
    assert (found.live, found.removed) == (1, 1)
    schema.drop(prompt=False)


def test_where_names_have_a_case_another_schema_s_files_stay(
    mariadb: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mariadb.config, "stores", {
        "default": "main", "main": {"protocol": "file", "location": str(store)},
    })  # fmt: skip
    made = []
    for name in ("Twin", "twin"):
        schema = mariadb.Schema(f"{name}_{os.getpid()}")
        scan = schema(type("Scan", (dj.Manual,), {"definition": SCAN}))
        scan.insert([{"subject": name, "scan": n, "waveform": WAVEFORM} for n in range(2)])
        scan.delete_quick()
        made.append(schema)
    before = files(store)
    assert dj_npy.collect(made[1], older_than=NOW, dry_run=False, at_most=2).removed == 2
    assert {name for name in before if name.startswith("Twin")} == files(store)
    for schema in made:
        schema.drop(prompt=False)


# --- Every disk ------------------------------------------------------------------------------


def upcased(text: str) -> str:
    """As exFAT and NTFS do it: letter by letter."""
    return "".join(c.upper() if len(c.upper()) == 1 else c for c in text)


def lowered(text: str) -> str:
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text).replace("\u0130", "i")


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def without_ends(text: str) -> str:
    return "/".join(part.rstrip(". ") for part in text.split("/"))


def with_ends(text: str) -> str:
    return "/".join(f"{part}. " for part in text.split("/"))


def backwards(text: str) -> str:
    return text.replace("/", "\\")


MODELS = [
    str.casefold, str.swapcase, upcased, lowered, composed, decomposed, compatible, without_ends,
    with_ends, backwards,
]  # fmt: skip
"""What disks, and servers, make of a name: it and what comes of it lead to one file."""

OF_LISTINGS = [disk for disk in MODELS if disk not in (compatible, backwards)]
"""What may come of a path that we have joined: slashes stay what they are."""


def test_no_letter_has_two_forms() -> None:
    letters = map(chr, range(sys.maxunicode + 1))
    names = [f"a{c}b" for c in letters if len({c, c.swapcase(), c.casefold(), compatible(c)}) > 1]
    for disk in MODELS:
        changed = [(name, disk(name)) for name in names if disk(name) != name]
        assert [pair for pair in changed if len(set(map(folded, pair))) > 1] == [], disk


def listing(path: str) -> Any:
    """A store that has one file."""
    file = Listed(path, 1, datetime.fromtimestamp(0, UTC), "1")
    return SimpleNamespace(
        name="main",
        now=lambda: datetime.now(UTC),
        files=lambda _: iter([file]),
        uploads=lambda _: iter([]),
    )


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
FOLDERS = st.lists(NAMES.filter(folded), max_size=3).map("/".join)


@given(
    NAMES, st.integers(0, 3), st.booleans(), FOLDERS, FOLDERS,
    st.sampled_from(["", "{subject}", "{scan}", "{scan}/{subject}"]),
    st.lists(st.sampled_from(MODELS), max_size=3),
    st.lists(st.sampled_from(OF_LISTINGS), max_size=3), st.booleans(),
)  # fmt: skip
def test_whatever_a_disk_makes_of_a_path_its_file_is_spared(
    subject: str, scan: int, token: bool, prefix: str, above: str, partition: str,
    of_row: list[Any], of_listing: list[Any], row_begins_above: bool,
) -> None:  # fmt: skip
    column = Column("lab", "scan", "waveform", ("subject", "scan"), None)
    key = {"subject": subject, "scan": scan}
    path = array_path("lab", "scan", key, "waveform", prefix=prefix, partition=partition)
    row = listed = with_token(path) if token else path
    for disk in of_row:
        row = disk(row)
    for disk in of_listing:
        listed = disk(listed)
    if above and row_begins_above:
        row = f"{above}/{row}"
    elif above:
        listed = f"{above}/{listed}"
    layout = Layout([column], prefix)
    assert Listing([(listed, layout.relative_path(listed))]).of(row) == {listed}
    report = Collection(False, timedelta(0), ["lab"])
    with Inventory() as inventory:
        gone = Dropped(
            ["lab"], [("lab", "scan", name) for name in ("subject", "scan", "waveform")], prefix
        )
        place = Place(listing(listed), layout, gone, [""])
        inventory.list(0, place, timedelta(0), report)
        inventory.spare([row], [])
        inventory.count(report, [listing(listed)], True)
    assert not report.orphans
    assert report.live + report.unknown == 1


def test_objects_that_differ_in_case_have_copies_of_their_own_on_any_disk() -> None:
    keys = [("s3://host/bucket", path, "1") for path in ("lab/subject=M1", "lab/subject=m1")]
    assert len({folded(filecache._name(key)) for key in keys}) == 2
