"""Errors, one class for each reaction of a caller."""

from typing import Any

import datajoint as dj
from datajoint.errors import DataJointError

_MissingFile: Any = getattr(dj.errors, "MissingExternalFile", DataJointError)


class NpyError(DataJointError):
    """Base class of every error that this package raises deliberately."""


class ArrayInvalidError(NpyError, ValueError):
    """The value or argument is invalid: change it and try again. Nothing was written."""


class ArrayMissingError(NpyError, _MissingFile, FileNotFoundError):
    """The row exists, but its file does not: restore the file, or delete the row."""


class ArrayCorruptError(NpyError):
    """The file does not match its row: restore it from a copy."""


class StoreError(NpyError, OSError):
    """The store cannot do this: fix its configuration, disk or permissions."""
