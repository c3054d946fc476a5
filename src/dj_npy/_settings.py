"""Settings of the package, by environment variable or assignment."""

from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_path
from pydantic import ByteSize, Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dj_npy._errors import ArrayInvalidError
from dj_npy._memory import usable_memory
from dj_npy._text import kind_of


class Settings(BaseSettings):
    """
    Settings of this process; each can also be set by an environment variable ``DJ_NPY_<NAME>``.

    Sizes are in bytes, or strings with a unit (``"2 GiB"``). An invalid value raises
    `pydantic.ValidationError`, also on assignment.

    Examples
    --------
    >>> Settings(memory="2 GiB").memory
    2147483648
    """

    model_config = SettingsConfigDict(
        env_prefix="DJ_NPY_", env_ignore_empty=True, validate_assignment=True
    )

    memory: ByteSize = Field(default_factory=lambda: ByteSize(usable_memory() // 4))
    """
    Bytes of loaded arrays kept in memory beyond those still in use.

    Default: a quarter of the memory available at the start of the process: the least of the RAM,
    the limits of its cgroup (version 1 or 2) and all cgroups above it, and its own limits
    (``RLIMIT_AS``, ``_DATA``, ``_RSS``).
    """

    fsync: bool = True
    """Whether an insert into a local store syncs the array to disk. Default: true."""

    cache_dir: Path = Field(default_factory=lambda: user_cache_path("dj-npy", appauthor=False))
    """
    Folder for copies of memory-mapped remote files. Default: the user's cache folder.

    All users of a machine may share one (mode 1777): each gets a private folder in it.
    """

    cache_bytes: ByteSize = ByteSize(10 << 30)
    """Bytes of these copies to keep for each user, most recently mapped. Default: 10 GiB."""

    max_workers: int = Field(default=256, ge=1, le=1024)
    """
    Most threads of `load`, `stream`, `insert` and `verify`. Default: 256.

    As many are used as the distance of the store asks for: 16 where it is near, 64 where it is far,
    and more for inserts as long as the store answers promptly.
    """

    load_below: ByteSize = ByteSize(1 << 20)
    """Arrays up to this size are loaded whole when a part is requested. Default: 1 MiB."""

    load_share: float = Field(default=0.5, ge=0)
    """Fraction of an array above which an index loads all of it, if it fits. Default: 0.5."""

    merge_gap: ByteSize = Field(default=ByteSize(128 << 10), le=1 << 40)
    """Largest gap between two parts of a remote file merged into one request. Default: 128 KiB."""

    range_bytes: ByteSize = Field(default=ByteSize(8 << 20), gt=0, le=1 << 40)
    """Largest range of a remote file read by one request. Default: 8 MiB."""


settings = Settings()


_SIZE: TypeAdapter[ByteSize] = TypeAdapter(Annotated[ByteSize, Field(gt=0)])


def nbytes_of(size: int | str, name: str, expected: str) -> int:
    """
    Return a size such as ``"64 MiB"`` in bytes.

    Raises ArrayInvalidError, which says what the argument `name` is `expected` to be.
    """
    try:
        return _SIZE.validate_python(size)
    except ValidationError:
        raise ArrayInvalidError(f"{name} must be {expected}, not {kind_of(size)}") from None


def thread_count(given: int | None) -> int:
    """Return the most threads to use: as given, or ``settings.max_workers``."""
    if given is None:
        return settings.max_workers
    if not isinstance(given, int) or given < 1:
        raise ArrayInvalidError(f"max_workers must be a number of threads, not {kind_of(given)}")
    return given
