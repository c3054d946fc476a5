"""A forked child reads and writes whatever its parent did before: obstore itself cannot."""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run
from tests.support import warm
from tests.support.servers import s3_settings

pytestmark = pytest.mark.slow

PROGRAM = """
import json, multiprocessing, os, sys, threading, time
from types import SimpleNamespace
import numpy as np
import dj_npy

dj_npy.settings.cache_dir = sys.argv[3]
stores = {"default": "main", "main": json.loads(sys.argv[1])}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
codec = dj_npy.NpyCodec()
context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}

def insert(number):
    array = np.full((300, 1000), number, float)
    row = codec.encode(array, key={"recording_id": number}, context=context)
    return codec.decode(row, context=context)

def use(number):
    ref = insert(number)
    assert ref.load()[2, 3] == number
    assert ref.load(mmap_mode="r")[2, 3] == number
    assert np.array_equal(old.load(mmap_mode="r"), old.load())
    fresh = codec.decode(old._raw, context=context)
    assert fresh.load()[0, 0] == 1
    from dj_npy._stores import open_store
    return ref.path, type(open_store(config, "main")).__name__

old = None
"""

MAIN = (
    PROGRAM
    + """
def main():
    global old
    old = insert(1)
    assert old.load()[0, 0] == 1            # obstore is in use
    assert old.load(mmap_mode="r")[0, 0] == 1  # the cache is warm
    stop = threading.Event()

    def keep_reading():
        while not stop.is_set():
            codec.decode(old._raw, context=context).load()

    threads = [threading.Thread(target=keep_reading) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for number in range(2, 6):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            result = use(number)
            os.write(writer, json.dumps(result).encode())
            if number % 2:
                os._exit(0)
            break                            # ends as any program does
        os.close(writer)
        with os.fdopen(reader) as answer:
            print(answer.read(), flush=True)
        assert os.waitpid(pid, 0)[1] == 0, "the child has failed"
    else:
        number = 0
        assert use(9)[1] == "CloudStore"     # the parent goes on as before
        print("the parent is well", flush=True)
    stop.set()
    if number == 0:
        for thread in threads:
            thread.join()

main()
"""
)


def test_a_forked_child_works_whatever_its_parent_did(
    moto: str, location: str, tmp_path: Path
) -> None:
    settings = s3_settings(moto, location=location)
    lines = warm.output("-c", MAIN, *arguments(settings, tmp_path), timeout=120).splitlines()
    expected = [
        f'["lab/recording/recording_id={number}/waveform.npy", "GenericStore"]'
        for number in range(2, 6)
    ]
    assert lines == [*expected, "the parent is well"]


def arguments(settings: dict[str, Any], tmp_path: Path) -> list[str]:
    return [json.dumps(settings), "", str(tmp_path / "cache")]


METHODS = """
import multiprocessing, sys
import numpy as np
import dj_npy
from types import SimpleNamespace
import json

def work(ref):
    from dj_npy._stores import open_store
    return float(ref.load()[0, 0]), type(open_store(ref._config, "main")).__name__

if __name__ == "__main__":
    stores = {"default": "main", "main": json.loads(sys.argv[1])}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    import datajoint as dj
    dj.config.stores = stores
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}
    codec = dj_npy.NpyCodec()
    ref = codec.decode(codec.encode(np.full((3, 4), 7.0), key={"k": 1}, context=context),
                       context=context)
    assert ref.load()[0, 0] == 7
    ref.unload()
    with multiprocessing.get_context(sys.argv[2]).Pool(2, initializer=configure,
                                                       initargs=(stores,)) as pool:
        print(pool.map_async(work, [ref] * 4).get(60))
"""

CONFIGURE = """
def configure(stores):
    import datajoint as dj
    import dj_npy
    dj.config.stores = stores
"""


@pytest.mark.parametrize(
    ("method", "kind"),
    [("spawn", "CloudStore"), ("forkserver", "CloudStore"), ("fork", "GenericStore")],
)
def test_each_way_to_start_a_process(
    moto: str, location: str, tmp_path: Path, method: str, kind: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    program = tmp_path / "program.py"
    program.write_text(CONFIGURE + METHODS)
    settings = json.dumps(s3_settings(moto, location=location))
    result = run([sys.executable, "-W", "ignore", str(program), settings, method], timeout=120)
    assert result.stdout.strip() == str([(7.0, kind)] * 4)


def test_a_fork_before_obstore_is_imported_keeps_obstore(moto: str, location: str) -> None:
    program = """
import json, os, sys
import dj_npy
assert "obstore" not in sys.modules
if pid := os.fork():
    sys.exit(os.waitpid(pid, 0)[1])
from tests.support.references import store_of
store = store_of(json.loads(sys.argv[1]))
store.create(["x"], [memoryview(b"1")], 1)
data, stat = store.read_beginning("x", 5)
print(type(store).__name__, (data, stat.nbytes))
"""
    settings = json.dumps(s3_settings(moto, location=location))
    result = run([sys.executable, "-W", "ignore", "-c", program, settings], timeout=60)
    assert result.stdout.strip() == "CloudStore (b'1', 1)"


POPULATE = """
import sys, json
import datajoint as dj
import numpy as np
import dj_npy

if __name__ == "__main__":
    dj_npy.embedded.start(sys.argv[1])
    dj.config.stores = {"default": "cloud", "cloud": json.loads(sys.argv[2])}

schema = dj.Schema("populate_on_s3")

@schema
class Raw(dj.Manual):
    definition = '''
    id : int32
    ---
    data : <npy@>
    '''

@schema
class Doubled(dj.Computed):
    definition = '''
    -> Raw
    ---
    data : <npy@cloud>
    '''

    def make(self, key):
        self.insert1({**key, "data": (Raw & key).fetch1("data") * 2})

if __name__ == "__main__":
    Raw.insert([{"id": n, "data": np.full((200, 300), n, float)} for n in range(12)])
    assert (Raw & "id=3").fetch1("data").load()[0, 0] == 3    # the parent has used S3
    Doubled.populate(processes=2)
    refs = Doubled.to_arrays("data")
    assert sorted(float(ref.load()[0, 0]) for ref in refs) == [2.0 * n for n in range(12)]
    for ref in refs:
        ref.verify()
    print(sorted({ref.path.rpartition("/")[2] for ref in refs}), len(refs))
    schema.drop(prompt=False)
"""


def test_populate_in_two_processes_with_s3_on_both_sides(
    moto: str, location: str, session_folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(POPULATE)
    settings = json.dumps(s3_settings(moto, location=location))
    result = run(
        [sys.executable, "-W", "ignore", str(program), str(session_folder / "populate"), settings],
        timeout=200,
    )
    assert result.stdout.strip().endswith("['data.npy'] 12")
