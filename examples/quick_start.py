"""The quick start: insert an array, fetch a lazy reference, use it."""

import datajoint as dj
import numpy as np

import dj_npy

dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_quick_start")


@schema
class Recording(dj.Manual):
    """Recordings with their waveforms."""

    definition = """
    recording_id : int
    ---
    waveform : <npy@>
    """


# Insert: just pass the array.
if not Recording():  # this example may be run again
    Recording.insert1(
        {
            "recording_id": 1,
            "waveform": np.random.default_rng(1).standard_normal((1000, 32)),
        }
    )

# Fetch: a reference, no download.
ref = (Recording & "recording_id=1").fetch1("waveform")
print(ref)
print(ref.shape, ref.dtype, ref.ndim, ref.size, ref.nbytes, ref.store, ref.path)
assert not ref.is_loaded

# NumPy loads it when it needs the data.
mean = np.mean(ref, axis=0)
print("mean of each channel:", mean.shape)

# Or load explicitly; the second time returns the same array.
array = ref.load()
assert ref.load() is array
print(ref)
