"""What `verify` and `collect` promise, of a store on a disk that is blind to case."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.upkeep.test_collect import *  # noqa: F403
from tests.upkeep.test_upkeep import *  # noqa: F403

# They want links or immutable files, or no local store.
del test_memory_does_not_grow_with_rows_or_files  # noqa: F821
del test_what_a_link_leads_to_stays  # noqa: F821
del test_what_cannot_be_removed_is_told  # noqa: F821
del test_on_s3  # noqa: F821
del test_a_bucket_that_is_gone_removes_nothing  # noqa: F821


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(getattr(request, "param", "postgresql"))


@pytest.fixture
def store(large_case_blind_disk: Path) -> Iterator[Path]:
    folder = large_case_blind_disk / uuid.uuid4().hex / "store"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder.parent)
