"""Which paths are ours: all that `path` makes, and no others."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dj_npy._format.layout import Column, Layout
from dj_npy._format.path import array_path, with_token

COLUMN = Column("lab_ephys", "recording", "waveform", ("subject", "recording_id"), None)
PLAIN = "lab_ephys/recording/subject=a/recording_id=1/waveform.npy"


@given(
    st.text(), st.one_of(st.integers(), st.text(max_size=300)), st.sampled_from(["", "a/b"]),
    st.sampled_from(["", "{subject}", "{recording_id}/{subject}", "{no}"]), st.booleans(),
)  # fmt: skip
def test_what_addressing_makes_is_ours(
    subject: str, recording_id: Any, prefix: str, partition: str, token: bool
) -> None:
    key = {"subject": subject, "recording_id": recording_id}
    path = array_path("lab_ephys", "recording", key, "waveform", prefix=prefix, partition=partition)
    layout = Layout([COLUMN], prefix)
    assert layout.classify(with_token(path) if token else path) == "array"
    folder = path.rpartition("/")[0]
    assert layout.classify(f"{folder}/.0123456789abcdef.dj-npy-tmp") == "temporary file"
    assert layout.is_key_folder(folder) == ("=" in folder.rpartition("/")[2])
    assert path.endswith(layout.relative_path(path))


@pytest.mark.parametrize(
    "path",
    [
        PLAIN.replace("waveform", "other"),
        PLAIN.replace("waveform", "waveform_filtered"),
        PLAIN.replace(".npy", ".npz"),
        PLAIN.replace("lab_ephys", "lab_ephys_2"),
        PLAIN.replace("recording/", "other/"),
        PLAIN.replace("subject=", "session="),
        PLAIN.replace("subject=a/recording_id=1/", ""),
        PLAIN.replace("recording_id=1/", "recording_id=1/deep/"),
        f"elsewhere/{PLAIN}",
        "waveform.npy",
        "",
    ],
)
def test_what_it_would_not_make_is_somebody_else_s(path: str) -> None:
    assert Layout([COLUMN], "").classify(path) is None


def test_the_folders_of_a_schema_stay() -> None:
    layout = Layout([COLUMN], "raw")
    for folder in ("raw", "raw/lab_ephys", "raw/lab_ephys/recording", "raw/lab_ephys/empty"):
        assert not layout.is_key_folder(folder)
    assert layout.is_key_folder("raw/lab_ephys/recording/subject=a")
    assert not layout.is_key_folder("lab_ephys/recording/subject=a")
    assert not layout.is_key_folder("raw/lab_ephys/recording/notes=a")


def test_a_table_without_a_key() -> None:
    layout = Layout([Column("lab", "settings", "mask", (), None)], "")
    assert layout.classify("lab/settings/mask.npy") == "array"
    assert layout.classify("lab/settings/a=1/mask.npy") is None
