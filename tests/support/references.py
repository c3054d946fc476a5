"""References without a database, and the configuration of processes that use them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import dj_npy
from dj_npy._stores import Store, open_store, opening
from tests.support.pages import ROOT


def forget_stores() -> None:
    """From now on, nothing is known of any store, as in a process that begins."""
    opening._open_stores.clear()
    opening._recent.clear()


def store_of(settings: dict[str, Any]) -> Store:
    """The store of these settings, opened anew."""
    stores: dict[str, Any] = {"default": "main", "main": settings}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    forget_stores()
    return open_store(config, "main")


def reference(array: Any, stores: dict[str, Any], recording_id: int = 1) -> dj_npy.NpyRef:
    """Store an array in the default one of some stores; return what a fetch would."""
    codec = dj_npy.NpyCodec()
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}
    row = codec.encode(array, key={"recording_id": recording_id}, context=context)
    return codec.decode(json.loads(json.dumps(row)), context=context)


def configured(way: str, settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Configure the store `main` for processes that start in a folder; their environment."""
    environment = {k: v for k, v in os.environ.items() if k != "DJ_IGNORE_CONFIG_FILE"}
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    if way == "environment":
        return {**environment, "DJ_STORES": json.dumps({"main": settings})}
    public = {k: v for k, v in settings.items() if k not in ("access_key", "secret_key")}
    (folder / "datajoint.json").write_text(json.dumps({"stores": {"main": public}}))
    (folder / ".secrets").mkdir()
    for name in settings.keys() - public.keys():
        (folder / ".secrets" / f"stores.main.{name}").write_text(settings[name])
    return environment


class Used(NamedTuple):
    """What a worker has found of a row."""

    process: int
    is_loaded: bool
    part: list[float]
    total: float
    ref: dj_npy.NpyRef


def used(row: dict[str, Any]) -> Used:
    ref = row["waveform"]
    is_loaded = ref.is_loaded
    return Used(os.getpid(), is_loaded, ref[3:5, 1].tolist(), float(ref.load().sum()), ref)
