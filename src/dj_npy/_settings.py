"""What a user may set, by environment variable or by assignment."""

from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from dj_npy._errors import ArrayInvalidError
from dj_npy._memory import usable_memory


class Settings(BaseSettings):
    """
    Settings of this process; each is also an environment variable ``DJ_NPY_<NAME>``.

    Sizes are in bytes and may be written with a unit (``"2 GiB"``). A value that does
    not fit raises `pydantic.ValidationError`, on assignment too.

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
    Bytes of loaded arrays kept beyond those still in use.

    Default: a quarter of what this process may have when it starts, by the RAM, by its cgroup
    (version 1 or 2) and all above it, and by its own limits (``RLIMIT_AS``, ``_DATA``, ``_RSS``).
    """

    fsync: bool = True
    """Whether an insert into a local store waits until the disk has the array. Default: true."""

    cache_dir: Path = Field(default_factory=lambda: user_cache_path("dj-npy", appauthor=False))
    """
    Folder for copies of remote files that are mapped into memory. Default: the user's.

    It may be one for all users of a machine (mode 1777): each has a private folder in it.
    """

    cache_bytes: ByteSize = ByteSize(10 << 30)
    """Bytes of these copies that are kept, of each user, those mapped last. Default: 10 GiB."""

    max_workers: int = Field(default=16, ge=1, le=1024)
    """Threads of `load`, `stream` and `insert`. Default: 16."""

    load_below: ByteSize = ByteSize(1 << 20)
    """Bytes up to which an array is loaded whole when a part is asked for. Default: 1 MiB."""

    load_share: float = Field(default=0.5, ge=0)
    """Share of an array above which an index loads all, if it can be kept. Default: 0.5."""

    merge_gap: ByteSize = Field(default=ByteSize(128 << 10), le=1 << 40)
    """Bytes between two parts of a remote file that one request still reads. Default: 128 KiB."""

    range_bytes: ByteSize = Field(default=ByteSize(8 << 20), gt=0, le=1 << 40)
    """Most bytes of a remote file that one request asks for. Default: 8 MiB."""


settings = Settings()


def thread_count(given: int | None) -> int:
    """Return how many threads are to be used: as many as given, or as the settings say."""
    if given is None:
        return settings.max_workers
    if not isinstance(given, int) or given < 1:
        raise ArrayInvalidError(f"max_workers must be a number of threads, not {given!r}")
    return given
