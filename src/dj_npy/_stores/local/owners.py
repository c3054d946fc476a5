"""Describe the owner of a file or folder, for errors about permissions."""

import os
from contextlib import suppress
from stat import S_IMODE, S_ISDIR, filemode

with suppress(ImportError):  # not on Windows
    from grp import getgrgid
    from pwd import getpwuid


def describe_owner(path: str) -> str:
    """Describe the owner of a path, or of its nearest parent that can be seen."""
    if os.name == "nt":
        return ""
    nearest = os.path.normpath(path)
    while True:
        try:
            status = os.stat(nearest)
            break
        except OSError:
            nearest = os.path.dirname(nearest)
    kind = "folder" if S_ISDIR(status.st_mode) else "file"
    return (
        f", {_user(os.geteuid())}: {kind} {nearest!r} is of user {_user(status.st_uid)} and group "
        f"{_group(status.st_gid)}, with mode {filemode(status.st_mode)} "
        f"({S_IMODE(status.st_mode):04o})"
    )


def _user(number: int) -> str:
    with suppress(KeyError):
        return getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with suppress(KeyError):
        return getgrgid(number).gr_name
    return str(number)
