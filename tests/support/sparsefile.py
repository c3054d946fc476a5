"""
Reductions of a sparse array within little memory.

``python -m tests.support.sparsefile FOLDER GIB LIMIT_GIB``: prints the mean, deviation and largest
value along the first axis, and the most memory that the process had, in bytes.
"""

import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dj_npy import NpyCodec
from dj_npy._format import npyfile

COLUMNS = 32
VALUE = 64.0


def main(folder: Path, gib: float, limit_gib: float) -> None:
    rows = int(gib * (1 << 30)) // (8 * COLUMNS)
    dtype, shape = np.dtype("f8"), (rows, COLUMNS)
    header = npyfile.header_bytes(dtype, shape, False)
    with (folder / "sparse.npy").open("wb") as file:
        file.write(header + np.full(COLUMNS, VALUE).tobytes())  # the first row; all others are 0
        file.truncate(len(header) + rows * COLUMNS * 8)
    store = {"protocol": "file", "location": str(folder)}
    config = SimpleNamespace(stores={"main": store}, get_store_spec=lambda name: dict(store))
    row = {"path": "sparse.npy", "store": "main", "dtype": "float64", "shape": [*shape]}
    ref = NpyCodec().decode(row, context={"config": config})
    limit = int(limit_gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "rows": rows,
        "mean": ref.mean(axis=0).tolist(),
        "std": np.std(ref, axis=0).tolist(),
        "max": float(np.maximum.reduce(ref, axis=None)),
    }
    found["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    try:
        _ = ref + 1
    except MemoryError as error:
        found["refused"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
