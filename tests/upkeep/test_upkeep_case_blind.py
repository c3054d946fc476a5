"""What `verify` and `collect` promise, of a store on a disk that is blind to case."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.upkeep.test_collect import *  # noqa: F403
from tests.upkeep.test_upkeep import *  # noqa: F403

# They want links or immutable files, no local store, or processes of their own.
del test_memory_does_not_grow_with_rows_or_files  # noqa: F821
del test_what_a_link_leads_to_stays  # noqa: F821
del test_what_cannot_be_removed_is_told  # noqa: F821
del test_on_s3  # noqa: F821
del test_the_commands_as_processes  # noqa: F821
del test_a_bucket_that_is_gone_removes_nothing  # noqa: F821
# They are about the database, whatever the store.
del test_a_server_that_cuts_its_answers  # noqa: F821
del test_a_table_and_an_age_below_zero_are_refused  # noqa: F821
del test_a_transaction_that_has_copied_rows_and_does_not_end_is_an_error  # noqa: F821
del test_a_transaction_that_has_read_only_is_not_waited_for  # noqa: F821
del test_a_transaction_that_is_open_for_longer_than_the_age_is_an_error  # noqa: F821
del test_a_value_that_is_longer_than_the_server_hands_out_is_an_error  # noqa: F821
del test_an_error_of_a_query_removes_nothing  # noqa: F821
del test_one_collection_at_a_time  # noqa: F821
del test_rows_that_an_open_transaction_has_copied_are_seen  # noqa: F821
del test_rows_that_are_hidden_from_this_account_are_an_error  # noqa: F821
del test_transactions_are_timed_by_one_clock  # noqa: F821
del test_what_is_no_schema_is_refused  # noqa: F821
del test_what_was_called_wrongly_is_told_in_the_exit_code  # noqa: F821
del test_within_a_transaction_nothing_is_collected  # noqa: F821


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(getattr(request, "param", "postgresql"))


@pytest.fixture
def store(large_case_blind_disk: Path) -> Iterator[Path]:
    folder = large_case_blind_disk / uuid.uuid4().hex / "store"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder.parent)
