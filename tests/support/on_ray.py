"""
A program that hands references to workers of Ray: ``python -m tests.support.on_ray STORES FOLDER``.

Of the stores, the workers know `main` and not `archive`. The folder is Ray's, for its files. It
prints, in JSON, what a worker says of `archive`.
"""

import json
import os
import sys
from typing import Any

import numpy as np
import ray
import ray.experimental

import dj_npy
from tests.support.references import reference, used

r: Any = ray  # what it returns has no types


def total(ref: dj_npy.NpyRef) -> float:
    return float(ref.read().sum())


def totals(rows: list[dict[str, Any]]) -> list[float]:
    return [total(row["waveform"]) for row in rows]


class Reader:
    """An actor that has references, and keeps what it has loaded."""

    def __init__(self, refs: list[dj_npy.NpyRef]) -> None:
        self.refs = refs

    def is_loaded(self) -> list[bool]:
        return [ref.is_loaded for ref in self.refs]

    def rows(self, number: int, start: int, stop: int) -> Any:
        return self.refs[number][start:stop]

    def total(self, number: int) -> float:
        return float(self.refs[number].load().sum())

    def process(self) -> int:
        return os.getpid()


def nbytes(held: Any) -> int:
    """How much room an object takes in Ray's store."""
    [place] = ray.experimental.get_object_locations([held]).values()
    return int(place["object_size"])


def main(stores: dict[str, Any]) -> str:
    arrays = [np.random.default_rng(n).random((400, 500)) for n in range(4)]
    rows: list[dict[str, Any]] = [
        {"recording_id": n, "waveform": reference(array, stores, n)}
        for n, array in enumerate(arrays)
    ]
    refs = [row["waveform"] for row in rows]
    expected = [float(array.sum()) for array in arrays]
    assert [float(ref.load().sum()) for ref in refs] == expected

    found = r.get([r.remote(used).remote(row) for row in rows])
    for each, array in zip(found, arrays, strict=True):
        assert each.process != os.getpid()
        assert not each.is_loaded
        assert each.part == array[3:5, 1].tolist()
        assert each.total == array.sum()
        assert (each.ref.read() == array).all()

    one, all_rows = r.put(refs[0]), r.put(rows)
    assert nbytes(one) < 1000
    assert nbytes(all_rows) < 4000
    assert r.get(r.remote(total).remote(one)) == expected[0]
    assert r.get(r.remote(totals).remote(all_rows)) == expected
    assert not r.get(one).is_loaded

    readers = [r.remote(Reader).remote(refs) for _ in range(2)]
    assert len({os.getpid(), *r.get([each.process.remote() for each in readers])}) == 3
    for reader in readers:
        assert r.get(reader.is_loaded.remote()) == [False] * 4
        assert (r.get(reader.rows.remote(2, 10, 20)) == arrays[2][10:20]).all()
        assert r.get(reader.total.remote(1)) == expected[1]
        assert r.get(reader.is_loaded.remote()) == [False, True, False, False]
    del reader, readers

    archived = reference(arrays[0], {**stores, "default": "archive"})
    try:
        r.get(r.remote(total).remote(archived))
    except dj_npy.StoreError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    r.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=sys.argv[2],
    )
    print(json.dumps(main(json.loads(sys.argv[1]))))
    r.shutdown()
