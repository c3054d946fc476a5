"""Process pools and joblib: workers read by their own configuration, whatever they are of."""

import json
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest

from dj_npy import NpyRef
from tests.conftest import run
from tests.support.references import configured
from tests.support.servers import SECRET_KEY, s3_settings

pytestmark = pytest.mark.slow

Stored = Callable[..., NpyRef]


EVERY = [*multiprocessing.get_all_start_methods(), "loky", "multiprocessing", "threading"]
# Those whose processes look for the files themselves; forked ones know what their parent does.
ANEW = [name for name in multiprocessing.get_all_start_methods() if name != "fork"]


@pytest.mark.parametrize(("way", "pools"), [("environment", EVERY), ("files", ANEW)])
def test_workers_of_every_pool_read_what_they_are_configured_for(
    seaweedfs: str, location: str, tmp_path: Path, way: str, pools: list[str]
) -> None:
    settings = s3_settings(seaweedfs, location=location)
    stores = {"default": "main", "main": settings, "archive": settings}
    environment = configured(way, settings, tmp_path)
    environment["DJ_NPY_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-m", "tests.support.pools", json.dumps(stores), *pools]
    done = run(command, cwd=tmp_path, env=environment, timeout=240)
    said = {name: (count, text) for name, count, text in map(json.loads, done.stdout.splitlines())}
    assert list(said) == pools
    assert said.pop("threading", (0, "")) == (0, "")
    for count, text in said.values():
        assert count in (1, 2)
        assert text.startswith(
            "store 'archive' is configured with `access_key` and `secret_key` where this "
            "reference was pickled. These do not travel, and in process of the worker on "
        )
        assert text.endswith("or by dj.config.stores['archive'] = {...}")
    assert SECRET_KEY not in done.stdout + done.stderr


def test_joblib_takes_a_reference_for_the_same_whether_it_is_loaded(
    stored: Stored, tmp_path: Path
) -> None:
    ref, other = stored(np.arange(12.0)), stored(np.arange(12.0), 2)
    calls = []

    def total(ref: NpyRef) -> float:
        calls.append(ref.path)
        return float(ref.sum())

    remembered = joblib.Memory(tmp_path / "joblib", verbose=0).cache(total)
    again = pickle.loads(pickle.dumps(ref))
    assert [remembered(each) for each in (ref, ref, again, other)] == [66.0] * 4
    assert calls == [ref.path, other.path]
