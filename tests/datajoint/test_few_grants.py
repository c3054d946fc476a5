"""An account that may work in schemas of its own and nowhere else."""

from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from tests.support.servers import files

WAVEFORM = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def own(few_grants: Any) -> Any:
    return few_grants.Schema(f"{few_grants.connection.conn_info['user']}_lab")


@pytest.fixture
def recording(own: Any) -> Any:
    definition = "recording_id : int32\n---\nwaveform : <npy@>"
    return own(type("Recording", (dj.Manual,), {"definition": definition}))


def test_it_may_do_nothing_elsewhere(few_grants: Any) -> None:
    with pytest.raises(DataJointError, match="Check permissions"):
        few_grants.Schema("of_somebody_else")
    with pytest.raises(Exception, match="denied"):
        few_grants.connection.query("SELECT * FROM information_schema.innodb_trx").fetchall()


def test_arrays_are_inserted_fetched_and_verified(own: Any, recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 0, "waveform": WAVEFORM})
    dj_npy.insert(recording, [{"recording_id": n, "waveform": WAVEFORM + n} for n in range(1, 4)])
    with recording.connection.transaction:
        recording.insert1({"recording_id": 4, "waveform": WAVEFORM + 4})
    for n, ref in enumerate(recording.fetch("waveform", order_by="recording_id")):
        np.testing.assert_array_equal(ref.load(), WAVEFORM + n)
        np.testing.assert_array_equal(ref[1:, ::2], (WAVEFORM + n)[1:, ::2])
    recording.update1({"recording_id": 4, "waveform": WAVEFORM})
    assert dj_npy.verify(own, checksums=True).counts == {"as inserted": 5}
    assert {row["waveform"].path for row in recording.to_dicts()} <= files(store)


def test_what_is_refused_leaves_nothing(recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 0, "waveform": WAVEFORM})
    before = files(store)
    for insert in (recording.insert, lambda rows: dj_npy.insert(recording, rows)):
        with pytest.raises(DuplicateError):
            insert([{"recording_id": n, "waveform": WAVEFORM} for n in (1, 0)])
    assert len(recording()) == 1
    assert files(store) == before
