import pytest
from pydantic import ValidationError

from dj_npy._settings import Settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJ_NPY_MEMORY", "2 GiB")
    monkeypatch.setenv("DJ_NPY_FSYNC", "0")
    found = Settings()
    assert found.memory == 2 << 30
    assert found.fsync is False


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJ_NPY_MEMORY", "")
    assert Settings().memory > 1 << 20


@pytest.mark.parametrize("value", ["much", "-1", "2 XB"])
def test_a_value_that_does_not_fit_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(memory=value)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Settings().memory = value  # type: ignore[assignment]
