"""
Blobs of older versions of DataJoint, as their real packages write them: `blobs.json`.

What ``python tests/support/blobs.py`` prints with DataJoint 0.13.8 and with 0.14.6 installed.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np


def arrays() -> dict[str, Any]:
    """Return what is in them."""
    return {
        "float64": np.arange(24.0).reshape(4, 6),
        "int16, Fortran order": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        "compressed": np.zeros((100, 30), np.float32),
        "bool": np.array([True, False, True]),
        "complex64": np.array([1 + 2j, 3 - 4j], np.complex64),
        "uint8, three axes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "empty": np.zeros((0, 3)),
        "datetime64": np.array(["2020-01-02", "1999-12-31"], "datetime64[us]"),
        "structured": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
    }


def others() -> dict[str, Any]:
    """Return what is no array in other blobs."""
    return {"dict": {"a": 1}, "list": [1, 2], "str": "text", "float": 2.5, "None": None}


def written() -> dict[str, dict[str, bytes]]:
    """Return the blobs by version and by what is in them."""
    folder = Path(__file__).parent
    found = json.loads((folder / "blobs.json").read_text())
    return {
        version: {name: base64.b64decode(blob) for name, blob in blobs.items()}
        for version, blobs in found.items()
    }


if __name__ == "__main__":
    import datajoint as dj
    from datajoint.blob import pack

    packed = {name: pack(value) for name, value in {**arrays(), **others()}.items()}
    encoded = {name: base64.b64encode(blob).decode() for name, blob in packed.items()}
    print(json.dumps({dj.__version__: encoded}))
