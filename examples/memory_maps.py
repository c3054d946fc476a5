"""Memory maps: parts of an array that need not fit into memory."""

import datajoint as dj
import numpy as np

import dj_npy

dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_memory_maps")


@schema
class Movie(dj.Manual):
    """Movies: frames of 64 x 64 pixels."""

    definition = """
    movie_id : int
    ---
    frames : <npy@>
    """


if not Movie():  # this example may be run again
    Movie.insert1(
        {"movie_id": 1, "frames": np.arange(2000 * 64 * 64, dtype="f4").reshape(2000, 64, 64)}
    )
ref = (Movie & "movie_id=1").fetch1("frames")

# 'r': read-only; what is not touched is not read.
frames = ref.load(mmap_mode="r")
print("a stretch:", frames[1000:1100].mean())
print("every hundredth frame:", frames[::100].shape)
assert not ref.is_loaded

# 'c': changes stay in memory.
scratch = ref.load(mmap_mode="c")
scratch[0] = 0
assert ref.load(mmap_mode="r")[0, 0, 1] == 1

# 'r+': changes go to the file. The row's checksum then tells that it is not as inserted.
first = ref.load(mmap_mode="r+")
before = first[0, 0, 0].copy()
first[0, 0, 0] = 42
first.flush()
print("in the file now:", ref.load(mmap_mode="r")[0, 0, 0])
try:
    ref.verify()
except dj_npy.ArrayCorruptError as error:
    print("verify:", error)
first[0, 0, 0] = before
