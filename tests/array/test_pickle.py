"""References cross processes: without data, without secrets, and missing settings are named."""

import copy
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef
from tests.conftest import run
from tests.support import warm
from tests.support.arrays import same
from tests.support.servers import SECRET_KEY, s3_settings

pytestmark = pytest.mark.usefixtures("nothing_configured")

Stored = Callable[..., NpyRef]
A = np.arange(12.0).reshape(4, 3)
PICKLES = pytest.mark.parametrize("library", [pickle, cloudpickle])


@pytest.fixture
def on_s3(stored: Stored, moto: str, location: str) -> NpyRef:
    """A reference whose store is configured for it alone, not in `dj.config`."""
    return stored(A, store=s3_settings(moto, location=location))


@PICKLES
@pytest.mark.parametrize("state", ["not loaded", "loaded", "a part was read"])
def test_the_size_of_a_pickle_has_nothing_to_do_with_the_data(
    stored: Stored, library: Any, state: str
) -> None:
    ref = stored(np.zeros((1000, 1000)))
    if state == "loaded":
        ref.load()
    elif state == "a part was read":
        ref[5:7]
        ref[5:7]
    data = library.dumps(ref)
    assert len(data) < 1000
    other = pickle.loads(data)
    assert not other.is_loaded
    assert same(other.load(), ref.load())


@PICKLES
def test_many_references_share_what_they_have_in_common(stored: Stored, library: Any) -> None:
    ref = stored(A)
    rows = [{**ref._raw, "path": f"lab/recording/recording_id={n}/a.npy"} for n in range(200)]
    refs = [NpyRef(row, ref._config) for row in rows]
    assert len(library.dumps(refs)) < 200 * 200 + 1000


@PICKLES
def test_a_lazy_view_travels_without_data(stored: Stored, library: Any) -> None:
    ref = stored(np.arange(300_000.0).reshape(3, -1))
    ref.load()
    for view in (ref.T, ref.mT, ref.real, ref.flat):
        data = library.dumps(view)
        assert len(data) < 1500
        assert same(np.asarray(pickle.loads(data)), np.asarray(view))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_within_the_process_keeps_the_store_and_its_secrets(
    on_s3: NpyRef, copied: Callable[[Any], Any]
) -> None:
    on_s3.load()
    [other] = copied([on_s3])
    assert same(copied(on_s3).load(), A)
    assert (other is on_s3) == (copied is copy.copy)  # of a list, copy() keeps the items
    assert not copied(on_s3).is_loaded


REFUSED = """
import pickle, sys, dj_npy
try:
    pickle.loads(bytes.fromhex(sys.argv[1])).load()
except dj_npy.StoreError as error:
    print(pickle.dumps(error).hex())
"""


def test_a_process_without_the_settings_says_which_are_missing(on_s3: NpyRef) -> None:
    told = warm.output("-c", REFUSED, pickle.dumps(on_s3).hex())
    error = pickle.loads(bytes.fromhex(told))
    assert type(error) is dj_npy.StoreError
    said = str(error)
    assert said.startswith(
        "store 'main' is configured with `access_key` and `secret_key` where this reference was "
        "pickled. These do not travel, and in process "
    )
    assert said.endswith(
        "no store is called 'main': set it there, in datajoint.json and its .secrets, in the "
        "environment variable DJ_STORES, or by dj.config.stores['main'] = {...}"
    )
    assert str(os.getpid()) not in said
    assert SECRET_KEY not in said


def test_what_is_missing_is_named_when_a_pickle_was_handed_on(on_s3: NpyRef) -> None:
    second = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(on_s3))))
    with pytest.raises(dj_npy.StoreError, match="`access_key` and `secret_key`"):
        second.load()


def test_settings_of_a_plugin_are_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"protocol": "memory", "location": "x", "bearer": "hidden", "unset": None}
    config = SimpleNamespace(stores={"default": "web", "web": settings})
    row = {"path": "a.npy", "store": "web", "dtype": "float64", "shape": [1]}
    ref = dj_npy.NpyCodec().decode(row, context={"config": config})
    data = pickle.dumps(ref)
    assert b"hidden" not in data
    with pytest.raises(dj_npy.StoreError, match=r"store 'web' is configured with `bearer` where"):
        pickle.loads(data).load()


@pytest.mark.parametrize("way", ["DJ_STORES", "files", "dj.config"])
def test_a_process_gets_the_secrets_from_its_own_configuration(
    on_s3: NpyRef, tmp_path: Path, way: str
) -> None:
    settings = dict(on_s3._config.stores["main"])
    program = (
        "import json, pickle, sys, dj_npy, datajoint as dj\n"
        "if len(sys.argv) > 2: dj.config.stores['main'] = json.loads(sys.argv[2])\n"
        "print(pickle.loads(bytes.fromhex(sys.argv[1])).load().sum())\n"
    )
    arguments = [pickle.dumps(on_s3).hex()]
    environment = {k: v for k, v in os.environ.items() if k != "DJ_IGNORE_CONFIG_FILE"}
    if way == "DJ_STORES":
        environment["DJ_STORES"] = json.dumps({"main": settings})
    elif way == "files":
        secrets = {name: settings.pop(name) for name in ("access_key", "secret_key")}
        (tmp_path / "datajoint.json").write_text(json.dumps({"stores": {"main": settings}}))
        (tmp_path / ".secrets").mkdir()
        for name, value in secrets.items():
            (tmp_path / ".secrets" / f"stores.main.{name}").write_text(value)
    else:
        arguments.append(json.dumps(settings))
    done = warm.run("-c", program, *arguments, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == "66.0", done.stderr


EXECUTORS = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
import numpy as np
import datajoint as dj
import dj_npy

stores = {"default": "main", "main": json.loads(sys.argv[1])}
dj.config.stores = stores       # here, so that a process that imports this program has it too

def work(ref):
    assert not ref.is_loaded
    return float(ref[2:4, 1].sum()), float(ref.load().sum())

if __name__ == "__main__":
    codec = dj_npy.NpyCodec()
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": dj.config}
    array = np.arange(400_000.0).reshape(1000, 400)
    ref = codec.decode(codec.encode(array, key={"k": 1}, context=context), context=context)
    assert ref.load()[0, 0] == 0    # the parent has used S3
    expected = [(float(array[2:4, 1].sum()), float(array.sum()))] * 3
    for method in multiprocessing.get_all_start_methods():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert list(pool.map(work, [ref] * 3, timeout=60)) == expected, method
        print(method)
"""


def test_an_executor_of_processes_however_they_are_started(
    moto: str, location: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(EXECUTORS)
    settings = json.dumps(s3_settings(moto, location=location))
    result = run([sys.executable, "-W", "ignore", str(program), settings], timeout=200)
    assert result.stdout.split() == multiprocessing.get_all_start_methods()
