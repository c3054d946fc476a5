"""What a user may set, by environment variable or by assignment."""

import os
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _quarter_of_ram() -> ByteSize:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows does not tell this way
        total = 8 << 30
    return ByteSize(total // 4)


class Settings(BaseSettings):
    """
    Settings of this process; each is also an environment variable ``DJ_NPY_<NAME>``.

    Sizes are in bytes and may be written with a unit (``"2 GiB"``). A value that does
    not fit raises :class:`pydantic.ValidationError`, on assignment too.

    Examples
    --------
    >>> Settings(memory="2 GiB").memory
    2147483648
    """

    model_config = SettingsConfigDict(
        env_prefix="DJ_NPY_", env_ignore_empty=True, validate_assignment=True
    )

    memory: ByteSize = Field(
        default_factory=_quarter_of_ram,
        description="Bytes of loaded arrays kept beyond those still in use. Default: RAM / 4.",
    )
    fsync: bool = Field(
        default=True,
        description="Whether an insert into a local store waits until the disk has the array.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: user_cache_path("dj-npy", appauthor=False),
        description="Folder for copies of remote files that are mapped into memory.",
    )
    cache_bytes: ByteSize = Field(
        default=ByteSize(10 << 30),
        description="Bytes of such copies that are kept, those mapped last.",
    )
    max_workers: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Threads of `load`, `stream` and `insert`.",
    )
    load_below: ByteSize = Field(
        default=ByteSize(1 << 20),
        description="Bytes up to which an array is loaded whole when a part of it is asked for.",
    )
    load_share: float = Field(
        default=0.5,
        ge=0,
        description="Share of an array above which an index loads all of it, if it can be kept.",
    )
    merge_gap: ByteSize = Field(
        default=ByteSize(128 << 10),
        le=1 << 40,
        description="Bytes between two parts of a remote file that are read for one request less.",
    )
    range_bytes: ByteSize = Field(
        default=ByteSize(8 << 20),
        gt=0,
        le=1 << 40,
        description="Most bytes of a remote file that one request asks for.",
    )


settings = Settings()
