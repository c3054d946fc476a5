"""Parts of an array: slices, rows and columns, and all of it in bounded memory."""

import datajoint as dj
import numpy as np

import dj_npy

dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_parts")


@schema
class Recording(dj.Manual):
    """Long recordings."""

    definition = """
    recording_id : int
    ---
    waveform : <npy@>
    """


if not Recording():  # this example may be run again
    waveform = np.arange(32 * 1_000_000, dtype="i2").reshape(-1, 32)  # 64 MB
    Recording.insert1({"recording_id": 1, "waveform": waveform})
ref = (Recording() & {"recording_id": 1}).fetch1("waveform")

print(ref[30_000:60_000].shape)  # one second of it is all that is read
print(ref[::100_000, 3])
print(ref[[999_999, 5, 5], -1])
print(ref)  # not loaded

# A loop without allocation.
out = np.empty((1000, 32), "i2")
for start in range(0, 10_000, 1000):
    ref.read(np.s_[start : start + 1000], out=out)

# All of it, in the memory of two blocks.
print(sum(int(block.sum()) for block in ref.blocks("8 MB")), ref.is_loaded)
