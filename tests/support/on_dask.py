"""
A program that computes on a Dask cluster: ``python -m tests.support.on_dask ADDRESS STORES``.

Of the stores, the workers know `main` and not `archive`. It reads nothing itself. It prints, in
JSON, the hosts of the workers that were handed references, and by host what is said of `archive`.
"""

import json
import pickle
import platform
import sys
from typing import Any, NamedTuple

import dask
import distributed
import numpy as np

import dj_npy
from tests.support.references import reference

dd: Any = distributed  # its functions have no types


class Used(NamedTuple):
    """What a worker has found of a reference."""

    host: str
    is_loaded: bool
    part: list[float]
    total: float


def used(ref: dj_npy.NpyRef) -> Used:
    is_loaded = ref.is_loaded
    return Used(platform.node(), is_loaded, ref[3:5, 1].tolist(), float(ref.load().sum()))


def refused(ref: dj_npy.NpyRef) -> tuple[str, str]:
    try:
        ref.load()
    except dj_npy.StoreError as error:
        return platform.node(), str(error)
    return platform.node(), ""


def main(scheduler: str, stores: dict[str, Any]) -> None:
    arrays = [np.random.default_rng(n).random((300, 500)) for n in range(16)]
    refs = [reference(array, stores, n) for n, array in enumerate(arrays)]
    archived = reference(arrays[0], {**stores, "default": "archive"}, 99)
    assert max(len(pickle.dumps(ref)) for ref in refs) < 1000
    with dd.Client(scheduler, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, 120)
        found = client.gather(client.map(used, refs[:8]))
        for each, array in zip(found, arrays[:8], strict=True):
            assert not each.is_loaded
            assert (each.part, each.total) == (array[3:5, 1].tolist(), array.sum())
        with dask.config.set(scheduler=client):
            lazy = dj_npy.to_dask(refs[8:], chunks="500 kB")
            assert np.allclose(lazy.mean(axis=0).compute(), np.mean(arrays[8:], axis=0))
        workers = client.scheduler_info(n_workers=-1)["workers"]
        said = [client.submit(refused, archived, workers=[each], pure=False) for each in workers]
        hosts = sorted({each.host for each in found})
        print(json.dumps([hosts, dict(client.gather(said))]))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
