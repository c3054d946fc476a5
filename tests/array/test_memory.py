"""The budget is a quarter of what the process may have, and not of what the machine has."""

import os
from pathlib import Path

import pytest

from dj_npy._array.file import Slab
from dj_npy._memory import usable_memory
from tests.support import warm

pytestmark = pytest.mark.slow

MIB = 1 << 20
RAM = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
NONE = "9223372036854771712"
V1 = "35 31 0:32 {above} {folder} rw,relatime shared:9 - cgroup cgroup rw,memory"
V2 = "30 23 0:26 {above} {folder} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
OTHERS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n22 1 8:1 / / rw - ext4 /dev/a rw"
)


def tree(root: Path, own: str, mounts: str, limits: dict[str, str]) -> Path:
    """Lay out what Linux would show."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/self/mountinfo").write_text(f"{OTHERS}\n{mounts}\n")
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


V2_MOUNT = V2.format(above="/", folder="/sys/fs/cgroup")
V1_MOUNT = V1.format(above="/", folder="/sys/fs/cgroup/memory")


@pytest.mark.parametrize(
    ("own", "mounts", "limits"),
    [
        ("0::/job\n", V2_MOUNT, {"job/memory.max": "8388608", "job/memory.high": "max"}),
        ("0::/job\n", V2_MOUNT, {"job/memory.max": "max", "job/memory.high": "8388608"}),
        ("0::/a/b/c\n", V2_MOUNT, {"a/memory.max": "8388608", "a/b/c/memory.max": "16777216"}),
        ("0::/a/b/c\n", V2_MOUNT, {"a/b/c/memory.max": "8388608", "a/memory.max": "max"}),
        ("0::/\n", V2_MOUNT, {"memory.max": "8388608"}),  # of a container of its own namespace
        ("0::/../other\n", V2_MOUNT, {"memory.max": "8388608"}),
        ("0::/a:b/c d\n", V2_MOUNT, {"a:b/c d/memory.max": "8388608"}),
        (
            "9:cpu:/\n4:memory:/job\n0::/\n",
            V1_MOUNT,
            {"memory/job/memory.limit_in_bytes": "8388608", "memory/memory.limit_in_bytes": NONE},
        ),
        (
            "4:memory:/slurm/uid_1/job_2/step_0\n",
            V1_MOUNT,
            {
                "memory/slurm/uid_1/job_2/memory.limit_in_bytes": "8388608",
                "memory/slurm/uid_1/job_2/step_0/memory.limit_in_bytes": NONE,
            },
        ),
        (  # a container that sees the paths of its host, and its own group as the topmost
            "4:cpu,memory:/docker/0a1b\n",
            V1.format(above="/docker/0a1b", folder="/sys/fs/cgroup/memory"),
            {"memory/memory.limit_in_bytes": "8388608"},
        ),
        (
            "4:memory:/docker/0a1b/inner\n",
            V1.format(above="/docker/0a1b", folder="/sys/fs/cgroup/memory"),
            {"memory/inner/memory.limit_in_bytes": "8388608"},
        ),
        (
            "4:memory:/elsewhere\n",
            V1.format(above="/docker/0a1b", folder="/sys/fs/cgroup/memory"),
            {"memory/memory.limit_in_bytes": "8388608"},
        ),
        (  # both at once, as systemd mounts them
            "4:memory:/job\n0::/job\n",
            f"{V1_MOUNT}\n{V2.format(above='/', folder='/sys/fs/cgroup/uni fied')}".replace(
                "uni fied", "uni\\040fied"
            ),
            {
                "memory/job/memory.limit_in_bytes": "16777216",
                "uni fied/job/memory.max": "8388608",
            },
        ),
    ],
)
def test_the_least_limit_of_the_group_and_all_above_it_counts(
    tmp_path: Path, own: str, mounts: str, limits: dict[str, str]
) -> None:
    assert usable_memory(tree(tmp_path, own, mounts, limits)) == 8 * MIB


@pytest.mark.parametrize(
    ("own", "mounts", "limits"),
    [
        ("0::/job\n", V2_MOUNT, {"job/memory.max": "max"}),
        ("0::/job\n", V2_MOUNT, {"job/memory.max": ""}),
        ("0::/job\n", V2_MOUNT, {"other/memory.max": "8388608"}),  # which this is not in
        ("4:memory:/job\n", V1_MOUNT, {"memory/job/memory.limit_in_bytes": NONE}),
        ("4:memory:/job\n", V1_MOUNT, {}),
        ("garbage\n\n", "garbage - \n", {}),
        ("0::/job\n", "garbage - cgroup2", {}),
        ("", "", {}),
    ],
)
def test_without_a_limit_it_is_the_ram(
    tmp_path: Path, own: str, mounts: str, limits: dict[str, str]
) -> None:
    assert usable_memory(tree(tmp_path, own, mounts, limits)) == RAM


def test_where_nothing_is_told_of_groups_it_is_the_ram(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == RAM


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_RSS"])
def test_a_process_that_is_limited_keeps_a_quarter_of_its_limit(limit: str) -> None:
    most = 3 << 30  # so much address space do the threads of the libraries take, unused
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.{limit}, ({most}, resource.RLIM_INFINITY))\n"
        "import dj_npy; print(dj_npy.settings.memory)"
    )
    said = warm.output("-c", code, env={**os.environ, "DJ_NPY_MEMORY": ""})
    assert int(said) == min(most, RAM) // 4


def test_more_than_there_is_room_for_is_a_memory_error() -> None:
    for nbytes in (1 << 62, 1 << 70):
        with pytest.raises(MemoryError, match=f"{nbytes} bytes"):
            Slab().allocate(nbytes)
