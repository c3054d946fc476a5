"""What earlier versions have written is read: files, rows and pickles."""

import base64
import io
import json
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef, StoreError
from tests.support.arrays import same
from tests.support.written import FOLDER, LOCATION, S3, arrays, config

pytestmark = pytest.mark.usefixtures("nothing_configured")

SEEN: dict[str, Callable[[Any], Any]] = {
    "": np.asarray,
    "T": np.transpose,
    "real": np.real,
    "flat": np.ravel,
}
VERSIONS = sorted(path.parent for path in FOLDER.glob("*/rows.json"))
MAY_BE_NAMED = {
    "builtins getattr",
    "dj_npy NpyRef",
    "dj_npy.pickles store",
}


def pickles(version: Path, store: str) -> dict[str, bytes]:
    stored = json.loads((version / "pickles.json").read_text())
    return {
        name.partition(" ")[2]: base64.b64decode(text)
        for name, text in stored.items()
        if name.startswith(store)
    }


def test_there_are_fixtures_of_this_version() -> None:
    assert FOLDER / dj_npy.__version__ in VERSIONS


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_rows_and_their_files(version: Path) -> None:
    rows = json.loads((version / "rows.json").read_text())
    expected = arrays()
    assert rows.keys() == expected.keys()
    own = config(main={"protocol": "file", "location": str(version / "store")})
    for name, row in rows.items():
        ref = NpyRef(row, own)
        assert same(ref.load(), expected[name])
        assert ref.verify() == "as inserted"


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_pickles_that_find_their_store(version: Path) -> None:
    here = Path(f"/tmp/dj-npy-fixture-{secrets.token_hex(3)[:5]}")
    assert len(str(here)) == len(LOCATION)
    here.symlink_to(version / "store")
    try:
        found = pickles(version, "file")
        assert len(found) == 4 * len(arrays())
        for name, data in found.items():
            attribute, _, view = name.partition(" ")
            seen = pickle.loads(data.replace(LOCATION.encode(), str(here).encode()))
            array = arrays()[attribute]
            assert same(np.asarray(seen), SEEN[view](array))
    finally:
        here.unlink()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_pickles_of_a_store_with_secrets(version: Path) -> None:
    for data in pickles(version, "s3").values():
        assert S3["secret_key"].encode() not in data
        assert S3["access_key"].encode() not in data
    ref = pickle.loads(pickles(version, "s3")["plain"])
    assert (ref.shape, ref.dtype, ref.store) == ((3, 4), np.dtype("f8"), "main")
    with pytest.raises(StoreError, match="secret_key"):
        ref.load()
    dj.config.stores = {"default": "main", "main": {**S3, "bucket": "others"}}
    with pytest.raises(StoreError, match=r"recordings.*others"):
        ref.load()


def test_pickles_name_nothing_that_may_change() -> None:
    """What a pickle names has to stay where it is for ever."""
    named: set[str] = set()

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            named.add(f"{module} {name}")
            return super().find_class(module, name)

    for store in ("file", "s3"):
        for data in pickles(FOLDER / dj_npy.__version__, store).values():
            Reader(io.BytesIO(data)).load()
    assert named
    assert named <= MAY_BE_NAMED
