"""Memory available to this process: the least of the RAM and all limits."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

with suppress(ImportError):  # Windows has none
    import resource

_UNKNOWN = 8 << 30
"""Assumed if nothing is known."""
_LIMITS = {"": ("memory.max", "memory.high"), "memory": ("memory.limit_in_bytes",)}
"""Limit files of a cgroup by controller: "" for version 2, "memory" for version 1."""


def usable_memory(root: Path = Path("/")) -> int:
    """
    Return the bytes of memory that this process may use in total.

    The least of the RAM, the limits of its cgroup and all cgroups above, and its own limits.

    Parameters
    ----------
    root : Path
        Folder of ``proc`` and the cgroup file systems.
    """
    limits = [*_ram(), *_of_process()]
    with suppress(ValueError):  # unexpected file contents
        limits += _of_cgroups(root)
    return min(limits, default=_UNKNOWN)


def _ram() -> Iterator[int]:
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if total > 0:
            yield total


def _of_process() -> Iterator[int]:
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_RSS"):
        with suppress(NameError, AttributeError, ValueError, OSError):  # not on this system
            soft, _ = resource.getrlimit(getattr(resource, name))
            if soft != resource.RLIM_INFINITY:
                yield soft


def _of_cgroups(root: Path) -> Iterator[int]:
    own = dict(_own_cgroups(root))
    for controller, above, mounted in _mounted(root):
        if controller not in own:
            continue
        # A container sees its own cgroup as the root, or at its path on the host.
        path = own[controller]
        within = path.relative_to(above) if path.is_relative_to(above) else PurePosixPath()
        for group in (within, *within.parents):
            for name in _LIMITS[controller]:
                yield from _limit(mounted / group / name)


def _own_cgroups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield controller ("" in version 2) and path of each cgroup of this process."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _LIMITS:
                yield controller, PurePosixPath(path)


def _mounted(root: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Yield controller, root cgroup and mount point of each cgroup file system."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        above, folder = map(_unescaped, before.split(" ")[3:5])
        if kind == "cgroup2":
            yield "", PurePosixPath(above), root / folder.lstrip("/")
        elif kind == "cgroup" and "memory" in options.split(","):
            yield "memory", PurePosixPath(above), root / folder.lstrip("/")


def _unescaped(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _limit(file: Path) -> Iterator[int]:
    for line in _lines(file):
        # "max" means no limit; version 1 writes a number near 2**63, which is never the least.
        if line.isdecimal():
            yield int(line)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:  # another system, or a cgroup of another namespace
        return []
