"""Dask: statistics of many recordings, and a computed array that is inserted block by block."""

import datajoint as dj
import numpy as np

import dj_npy

dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_dask")


@schema
class Recording(dj.Manual):
    """Recordings, and what is computed of them."""

    definition = """
    recording_id : int
    ---
    waveform : <npy@>
    """


Recording.insert(
    (
        {"recording_id": number, "waveform": np.full((100_000, 8), number, "f4")}
        for number in range(4)
        if not Recording() & {"recording_id": number}  # this example may be run again
    ),
)
waveforms = dj_npy.to_dask(
    (Recording() & "recording_id < 4").to_arrays("waveform", order_by="KEY"), chunks="4 MB"
)
print(waveforms.shape, waveforms.chunks[0])  # nothing has been read
print(waveforms[1:3, :10].mean().compute())  # reads ten rows of two files

if not Recording() & {"recording_id": 4}:
    Recording.insert1({"recording_id": 4, "waveform": waveforms.mean(axis=0)})
print((Recording() & {"recording_id": 4}).fetch1("waveform")[0])
