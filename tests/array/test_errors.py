import pickle

import pytest
from datajoint.errors import DataJointError, MissingExternalFile

import dj_npy

ERRORS = [
    dj_npy.NpyError,
    dj_npy.ArrayInvalidError,
    dj_npy.ArrayMissingError,
    dj_npy.ArrayCorruptError,
    dj_npy.StoreError,
]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_pickles_with_its_message(kind: type[Exception]) -> None:
    error = kind("what happened, and where")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is kind
    assert str(restored) == str(error) == "what happened, and where"


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_one_of_datajoint_and_of_this_package(kind: type[Exception]) -> None:
    assert issubclass(kind, DataJointError)
    assert issubclass(kind, dj_npy.NpyError)
    assert kind.__module__ == "dj_npy"


def test_errors_inherit_the_word_that_python_has() -> None:
    assert issubclass(dj_npy.ArrayMissingError, FileNotFoundError)
    assert issubclass(dj_npy.ArrayMissingError, MissingExternalFile)
    assert issubclass(dj_npy.ArrayInvalidError, ValueError)
    assert issubclass(dj_npy.StoreError, OSError)


@pytest.mark.parametrize("kind", ERRORS)
def test_datajoint_may_add_a_suggestion(kind: type[DataJointError]) -> None:
    suggested = kind("what happened").suggest("try this")
    assert suggested.args == ("what happened", "try this")
