"""PyTorch over references: batches from worker processes, and tensors."""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dj_npy import NpyRef
from tests.conftest import run
from tests.support.servers import s3_settings

Stored = Callable[..., NpyRef]


def test_dlpack_hands_out_a_copy(stored: Stored) -> None:
    ref = stored(np.arange(12.0).reshape(4, 3))
    assert ref.__dlpack_device__() == (1, 0)
    assert not ref.is_loaded
    for source in (ref, ref.T):
        array = np.from_dlpack(source)
        assert np.array_equal(array, np.asarray(source))
        assert not np.shares_memory(array, ref.load())
        with pytest.raises(BufferError, match="shares its data"):
            source.__dlpack__(copy=False)


@pytest.mark.parametrize("array", [np.zeros(3, ">f8"), np.zeros(3, [("a", "i4")])])
def test_what_dlpack_has_no_word_for_is_refused_by_numpy(stored: Stored, array: object) -> None:
    with pytest.raises(BufferError):
        np.from_dlpack(stored(array))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["from_dlpack", "as_tensor", "asarray", "tensor"])
def test_a_tensor_may_be_changed_and_the_reference_is_not(stored: Stored, name: str) -> None:
    """PyTorch writes into what NumPy and DLPack call read-only."""
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    array = np.arange(12.0).reshape(4, 3)
    ref = stored(array)
    ref.load()
    tensor = getattr(torch, name)(ref)
    assert tensor.dtype is torch.float64
    tensor += 1
    assert np.array_equal(ref, array)
    assert tensor.sum().item() == 78


LOADER = """
import json, sys
import datajoint as dj
import numpy as np
import torch
import dj_npy

stores = {"default": "main", "main": json.loads(sys.argv[1])}
dj.config.stores = stores      # a spawned worker imports this program, and has it too

class Arrays(torch.utils.data.Dataset):
    def __init__(self, refs):
        self.refs = list(refs)

    def __len__(self):
        return len(self.refs)

    def __getitem__(self, number):
        return torch.from_numpy(self.refs[number].read())

class Batches(Arrays):
    def __getitems__(self, numbers):
        arrays = dj_npy.stream(self.refs[number] for number in numbers)
        return [torch.from_numpy(array) for array in arrays]

if __name__ == "__main__":
    codec = dj_npy.NpyCodec()
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": dj.config}
    refs = [
        codec.decode(codec.encode(np.full((200, 300), n, float), key={"k": n}, context=context),
                     context=context)
        for n in range(8)
    ]
    assert refs[3].load()[0, 0] == 3       # the parent has used S3
    for method in sys.argv[2:]:
        options = {"batch_size": 4, "multiprocessing_context": method, "timeout": 60}
        options["num_workers"] = 1 if method == "spawn" else 2   # it imports PyTorch for 3 s
        for dataset in Arrays(refs), Batches(refs):
            batches = list(torch.utils.data.DataLoader(dataset, **options))
            assert [tuple(batch.shape) for batch in batches] == [(4, 200, 300)] * 2
            print(method, [float(batch[:, 0, 0].sum()) for batch in batches])
"""


def test_a_data_loader_reads_in_worker_processes(moto: str, location: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="pip install torch==2.13.0")
    methods = [m for m in multiprocessing.get_all_start_methods() if m != "forkserver"]
    program = tmp_path / "program.py"
    program.write_text(LOADER)
    settings = json.dumps(s3_settings(moto, location=location))
    result = run([sys.executable, "-W", "ignore", str(program), settings, *methods], timeout=200)
    expected = [f"{method} [6.0, 22.0]" for method in methods for _ in range(2)]
    assert result.stdout.splitlines() == expected
