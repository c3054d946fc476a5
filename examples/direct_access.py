"""Direct access: the files are plain .npy files at paths that mirror the database."""

from pathlib import Path

import datajoint as dj
import numpy as np

import dj_npy

place = dj_npy.embedded.start("dj-npy-examples")
schema = dj.Schema("example_direct_access")


@schema
class Scan(dj.Manual):
    """Scans of subjects."""

    definition = """
    subject : varchar(20)
    scan_date : date
    ---
    movie : <npy@>
    """


if not Scan():  # this example may be run again
    Scan.insert1({"subject": "mouse/7", "scan_date": "2024-01-02", "movie": np.eye(3)})
ref = (Scan & {"subject": "mouse/7"}).fetch1("movie")
print(ref.path)

# Without DataJoint, without this package:
array = np.load(place.store / ref.path)
print(array)

# The folders can be browsed.
for path in sorted(Path(place.store / "example_direct_access").rglob("*.npy")):
    print(path.relative_to(place.store))
