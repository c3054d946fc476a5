"""Safe bulk fetch: many rows, no download until one is asked for."""

import datajoint as dj
import numpy as np

import dj_npy

dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_bulk_fetch")


@schema
class Recording(dj.Manual):
    """Recordings of various lengths."""

    definition = """
    recording_id : int
    ---
    waveform : <npy@>
    """


if not Recording():  # this example may be run again
    Recording.insert(
        {"recording_id": number, "waveform": np.full((100 * number, 4), number)}
        for number in range(1, 21)
    )

recs = Recording.to_dicts()  # or fetch(), to_arrays(), to_pandas(): none of them downloads
for rec in recs[:3]:
    print(rec["recording_id"], rec["waveform"])
assert not any(rec["waveform"].is_loaded for rec in recs)

# Choose by what the rows know, then download only that.
large = [rec["waveform"] for rec in recs if rec["waveform"].shape[0] > 1000]
print(f"{len(large)} of {len(recs)} are long; their means:")
print([float(ref.load().mean()) for ref in large])
print("loaded:", sum(rec["waveform"].is_loaded for rec in recs))
