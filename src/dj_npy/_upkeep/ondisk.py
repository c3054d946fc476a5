"""Lists that grow with the number of rows or files: on disk, not in memory."""

import sqlite3
from typing import Self


class OnDisk:
    """A database in a temporary file, which is removed when the ``with`` block ends."""

    def __init__(self) -> None:
        # "": a temporary file of SQLite.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._database.close()
        if isinstance(error, sqlite3.Error):
            raise OSError(
                f"could not write a temporary file, of some hundred bytes for each row and file: "
                f"{error}. It is in the folder that SQLITE_TMPDIR or TMPDIR names, or in /var/tmp: "
                f"make room there, or name another before the program starts"
            ) from error
