"""What can go wrong, cut by what a caller would do about it."""

from typing import Any

import datajoint as dj
from datajoint.errors import DataJointError

_MissingFile: Any = getattr(dj.errors, "MissingExternalFile", DataJointError)


class NpyError(DataJointError):
    """Root of every error that this package raises on purpose."""


class ArrayInvalidError(NpyError, ValueError):
    """The value or argument cannot be taken: change it and try again. Nothing was written."""


class ArrayMissingError(NpyError, _MissingFile, FileNotFoundError):
    """The row is there, its file is not: restore the file, or delete the row."""


class ArrayCorruptError(NpyError):
    """The file is there and is not what the row says: restore it from a copy."""


class StoreError(NpyError, OSError):
    """The store cannot be used as asked: mend its configuration, its disk or its permissions."""
