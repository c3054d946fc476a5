"""How much memory this process may have: the least of what the machine and its limits say."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

with suppress(ImportError):  # Windows has none
    import resource

_UNKNOWN = 8 << 30
"""Taken for the memory where nothing tells."""
_LIMITS = {"": ("memory.max", "memory.high"), "memory": ("memory.limit_in_bytes",)}
"""By controller, files of a cgroup: of version 2, which names none, and of version 1."""


def usable_memory(root: Path = Path("/")) -> int:
    """
    Return the bytes of memory that this process may have, all in all.

    The least of the RAM, the limits of its cgroup and of all above it, and its own.

    Parameters
    ----------
    root : Path
        Where ``proc`` and the file systems of the cgroups are.
    """
    limits = [*_ram(), *_of_process()]
    with suppress(ValueError):  # lines that are not as Linux writes them
        limits += _of_cgroups(root)
    return min(limits, default=_UNKNOWN)


def _ram() -> Iterator[int]:
    with suppress(AttributeError, ValueError, OSError):  # Windows does not tell this way
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
        # A container may see its own group as the root, or at the path that the host has for it.
        path = own[controller]
        within = path.relative_to(above) if path.is_relative_to(above) else PurePosixPath()
        for group in (within, *within.parents):
            for name in _LIMITS[controller]:
                yield from _limit(mounted / group / name)


def _own_cgroups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the controller, which is "" in version 2, and the path of each group it is in."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _LIMITS:
                yield controller, PurePosixPath(path)


def _mounted(root: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Yield controller, topmost group and folder of each file system of cgroups."""
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
        # "max" is none; so is a number near 2**63, of version 1, which is never the least.
        if line.isdecimal():
            yield int(line)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:  # another system, or a group of another namespace
        return []
