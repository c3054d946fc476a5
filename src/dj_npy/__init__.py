"""
The ``<npy@>`` column type for DataJoint: plain ``.npy`` files, lazy references, nothing lost.

Importing this package replaces DataJoint's own codec for every ``<npy@>`` column of every
table, declared before or after.
"""

from dj_npy import embedded

# Imported, as cloudpickle takes what it cannot find by name to pieces.
from dj_npy import pickles as _pickles  # noqa: F401
from dj_npy._array.many import load, stream
from dj_npy._array.ref import NpyRef
from dj_npy._datajoint import patches as _patches
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._datajoint.insertmany import insert
from dj_npy._errors import (
    ArrayCorruptError,
    ArrayInvalidError,
    ArrayMissingError,
    NpyError,
    StoreError,
)
from dj_npy._format.blocks import Blocks
from dj_npy._lazy.dask import to_dask
from dj_npy._lazy.xarray import to_xarray
from dj_npy._moves.backup import backup, backups
from dj_npy._moves.export import export
from dj_npy._moves.importing import import_package
from dj_npy._moves.migrate import migrate
from dj_npy._moves.move import move
from dj_npy._moves.rebuild import rebuild
from dj_npy._moves.relocate import relocate
from dj_npy._moves.restore import restore
from dj_npy._moves.usage import usage
from dj_npy._settings import settings
from dj_npy._stores.described import use_config
from dj_npy._upkeep.adopt import adopt
from dj_npy._upkeep.collect import collect
from dj_npy._upkeep.verify import verify
from dj_npy._view.view import view

__version__ = "0.1.0"

__all__ = [
    "ArrayCorruptError",
    "ArrayInvalidError",
    "ArrayMissingError",
    "Blocks",
    "NpyCodec",
    "NpyError",
    "NpyRef",
    "StoreError",
    "__version__",
    "adopt",
    "backup",
    "backups",
    "collect",
    "embedded",
    "export",
    "import_package",
    "insert",
    "load",
    "migrate",
    "move",
    "rebuild",
    "relocate",
    "restore",
    "settings",
    "stream",
    "to_dask",
    "to_xarray",
    "usage",
    "use_config",
    "verify",
    "view",
]

_patches.apply()

# Tracebacks and reprs show the public module, not the one that defines these names.
for _public in (
    ArrayCorruptError,
    ArrayInvalidError,
    ArrayMissingError,
    Blocks,
    NpyCodec,
    NpyError,
    NpyRef,
    StoreError,
    adopt,
    backup,
    backups,
    collect,
    export,
    import_package,
    insert,
    load,
    migrate,
    move,
    rebuild,
    relocate,
    restore,
    stream,
    to_dask,
    to_xarray,
    usage,
    use_config,
    verify,
    view,
):
    _public.__module__ = __name__
del _public
