"""Four codecs side by side: the comparison table, filled by observation."""

import datajoint as dj
import numpy as np

import dj_npy

place = dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_four_codecs")


@schema
class Stored(dj.Manual):
    """The same array in four ways."""

    definition = """
    id : int
    ---
    as_npy : <npy@>
    as_object : <object@>
    as_blob : <blob@>
    as_hash : <hash@>
    """


array = np.arange(12.0).reshape(4, 3)
np.save(place.store.parent / "array.npy", array)
if not Stored():  # this example may be run again
    Stored.insert1(
        {
            "id": 1,
            "as_npy": array,
            "as_object": str(place.store.parent / "array.npy"),
            "as_blob": array,
            "as_hash": array.tobytes(),
        }
    )

row = Stored.fetch1()
# The paths, as the database has them.
[paths] = Stored.proj(*Stored.heading.secondary_attributes).cursor(as_dict=True)

print(f"{'codec':9} {'fetch returns':14} {'lazy':5} {'mapped':7} {'addressed by':13} path")
for name in Stored.heading.secondary_attributes:
    value, path = row[name], paths[name]["path"]
    lazy = not isinstance(value, (np.ndarray, bytes))
    try:
        mapped = isinstance(value.load(mmap_mode="r"), np.memmap)
    except AttributeError:
        mapped = False
    addressed = "schema" if "id=1" in path else "hash"
    codec = f"<{name.removeprefix('as_')}@>"
    kind = type(value).__name__
    print(f"{codec:9} {kind:14} {lazy!s:5} {mapped!s:7} {addressed:13} {path}")
