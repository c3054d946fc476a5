"""
What versions of this package have written, for later ones to read.

In each folder is what one version made of its arrays: a store's files, the rows as they are in
the database, and pickles of references. Nothing in it is ever changed;
`python -m tests.support.written` adds the folder of a new version.
"""

import base64
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import dj_npy

FOLDER = Path(__file__).parent / "versions"
LOCATION = "/tmp/dj-npy-fixture-00000"
"""Where the store was, as pickles have it; a test puts it into a folder with as long a name."""
S3: dict[str, Any] = {
    "protocol": "s3",
    "endpoint": "s3.lab.example",
    "secure": True,
    "bucket": "recordings",
    "location": "raw",
    "region": "eu-central-1",
    "access_key": "AKIAFIXTURE",
    "secret_key": "the secret of a fixture",
}


def arrays() -> dict[str, Any]:
    """Return what each version stores, by the attribute's name."""
    record = np.dtype([("t", "<f8"), ("name", "U3"), ("xy", "<i2", (2,))])
    return {
        "plain": np.arange(12.0).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "scalar": np.array(3 + 4j),
        "empty": np.zeros((0, 5), "f4"),
        "structured": np.array([(1.5, "abc", (1, 2)), (2.5, "µ", (3, 4))], record),
        "times": np.array(["2026-11-26T12:00", "NaT"], "datetime64[s]"),
    }


def config(**stores: Any) -> Any:
    return SimpleNamespace(
        stores={"default": "main", **stores},
        get_store_spec=lambda name: dict(stores[name or "main"]),
    )


def write() -> None:
    """Write the fixtures of this version."""
    folder = FOLDER / dj_npy.__version__
    folder.mkdir(parents=True)
    own = config(main={"protocol": "file", "location": str(folder / "store")})
    (folder / "store").mkdir()
    codec, rows = dj_npy.NpyCodec(), {}
    for name, array in arrays().items():
        context = {"schema": "lab", "table": "scan", "field": name, "config": own}
        rows[name] = codec.encode(array, key={"scan_id": 1, "who": "a/b"}, context=context)
    pickles = {}
    for store, settings in {"file": {"protocol": "file", "location": LOCATION}, "s3": S3}.items():
        for name, row in rows.items():
            ref = codec.decode(row, context={**context, "config": config(main=settings)})
            for view in ("", "T", "real", "flat"):
                seen = getattr(ref, view) if view else ref
                pickled = pickle.dumps(seen, protocol=4)
                pickles[f"{store} {name} {view}".strip()] = base64.b64encode(pickled).decode()
    for what, content in {"rows": rows, "pickles": pickles}.items():
        text = json.dumps(content, indent=1, sort_keys=True, default=repr)
        (folder / f"{what}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
