"""Where a reference from another process finds its store: all is of one configuration."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from dask.tokenize import tokenize

import dj_npy
from dj_npy import NpyRef, StoreError
from dj_npy._stores import secret
from tests.stores.test_clients import Listener, listener
from tests.support.servers import ACCESS_KEY, BUCKET, SECRET_KEY, s3_settings
from tests.support.warm import run

__all__ = ["listener"]  # a fixture

ROW = {"path": "lab/a.npy", "store": "lab", "dtype": "float64", "shape": [1]}
A = np.arange(12.0)


@pytest.fixture(autouse=True)
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Return the stores of this process; there are none."""
    before = dj.config.stores
    dj.config.stores = {}
    yield dj.config.stores
    dj.config.stores = before


def pickled(settings: dict[str, Any], row: dict[str, Any] = ROW) -> bytes:
    """Return the pickle of a reference, from where its store is configured so."""
    config = SimpleNamespace(stores={"default": "lab", "lab": settings})
    ref = dj_npy.NpyCodec().decode(row, context={"config": config})
    return pickle.dumps(ref)


def stored(settings: dict[str, Any]) -> NpyRef:
    """Return a reference to `A` in a store that is configured for it alone."""
    stores = {"default": "lab", "lab": settings}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(settings))
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}
    codec = dj_npy.NpyCodec()
    return codec.decode(codec.encode(A, key={"id": 1}, context=context), context=context)


def test_this_process_knows_where_the_folder_is(stores: dict[str, Any], tmp_path: Path) -> None:
    """Such as a share that is mounted elsewhere on the worker."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    data = pickle.dumps(stored({"protocol": "file", "location": str(there)}))
    there.rename(here)
    stores["lab"] = {"protocol": "file", "location": str(here)}
    assert (pickle.loads(data).load() == A).all()


def test_settings_that_are_no_secret_may_differ(
    moto: str, location: str, stores: dict[str, Any]
) -> None:
    data = pickle.dumps(stored(s3_settings(moto, location=location)))
    host = moto.removeprefix("http://")
    stores["lab"] = s3_settings(host, location=f"/{location}//", secure=False, subfolding=[2, 2])
    assert (pickle.loads(data).load() == A).all()


DIFFERENT: dict[str, Callable[[str], dict[str, Any]]] = {
    "endpoint": lambda here: s3_settings("http://other.invalid:9000"),
    "scheme": lambda here: s3_settings(here.replace("http:", "https:")),
    "bucket": lambda here: s3_settings(here, bucket="another"),
    "location": lambda here: s3_settings(here, location="another"),
    "protocol": lambda here: {"protocol": "gcs", "bucket": BUCKET, "location": ""},
    "account": lambda here: {"protocol": "azure", "container": BUCKET, "location": "",
                             "account_name": "me"},
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_two_that_differ_are_an_error_that_names_both(
    listener: Listener, stores: dict[str, Any], what: str
) -> None:
    here = f"http://{listener.address}"
    stores["lab"] = s3_settings(here)
    ref = pickle.loads(pickled(DIFFERENT[what](here)))
    for _ in range(2):
        with pytest.raises(StoreError, match="where this reference was pickled, and s3 at") as said:
            ref.load()
        assert str(os.getpid()) in str(said.value)
        assert listener.address in str(said.value)
        assert ACCESS_KEY not in str(said.value)
    assert listener.asked == []
    stores["lab"] = s3_settings("http://127.0.0.1:9")  # nor after another look


def test_an_account_that_a_connection_string_names(stores: dict[str, Any]) -> None:
    stores["lab"] = {
        "protocol": "azure", "container": "c", "location": "",
        "connection_string": "AccountName=me;AccountKey=bm90aGluZw==",
    }  # fmt: skip
    theirs = {"protocol": "azure", "container": "c", "location": "", "account_name": "you"}
    with pytest.raises(StoreError, match=r"azure at you/c where .*, and azure at me/c in process"):
        pickle.loads(pickled(theirs)).load()


@pytest.mark.parametrize("secure", [True, False])
def test_ambient_credentials_are_not_sent_where_only_a_pickle_says(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    theirs = {"protocol": "s3", "endpoint": listener.address, "secure": secure, "bucket": "b"}
    with pytest.raises(StoreError, match="are not sent where only a pickle says so: set it there"):
        pickle.loads(pickled({**theirs, "location": ""})).load()
    assert listener.asked == []


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("s3.amazonaws.com", True),
        ("https://S3.eu-west-1.amazonaws.com:443", True),
        ("http://s3.amazonaws.com", False),
        ("s3.amazonaws.com.evil.example", False),
        ("evil.example/s3.amazonaws.com", False),
        ("s3.amazonaws.com@evil.example", False),
    ],
)
def test_ambient_credentials_go_to_amazon(endpoint: str, allowed: bool) -> None:
    settings = {"protocol": "s3", "endpoint": endpoint, "bucket": "b", "location": ""}
    ref = pickle.loads(pickled(settings))
    if allowed:
        assert ref._config.get_store_spec("lab")["endpoint"] == endpoint
        return
    with pytest.raises(StoreError, match=r"not sent where only a pickle|do not travel"):
        ref._config.get_store_spec("lab")


def test_a_plugin_s_place_is_not_taken_from_a_pickle() -> None:
    with pytest.raises(StoreError, match="are not sent where only a pickle says so"):
        pickle.loads(pickled({"protocol": "memory", "location": "x"})).load()


@pytest.mark.parametrize("account", ["{}/", "{}/?", "x@{}/", "{}#"])
def test_an_account_of_a_pickle_is_no_host(listener: Listener, account: str) -> None:
    """Of ``https://ACCOUNT.blob.core.windows.net``, it would be all that counts."""
    said = account.format(listener.address)
    theirs = {"protocol": "azure", "container": "cont", "location": "", "account_name": said}
    ref = pickle.loads(pickled(theirs))
    with pytest.raises(StoreError, match=r"no name of an account|do not travel"):
        ref.load()
    assert listener.asked == []
    assert secret.public({**theirs, "account_name": "mylab"})["account_name"] == "mylab"


@pytest.mark.parametrize("more", [{"secure": None}, {"secure": False}])
@pytest.mark.parametrize("scheme", ["", "HTTP://"])
def test_one_configuration_on_both_sides_is_one_store(
    moto: str, location: str, stores: dict[str, Any], more: dict[str, Any], scheme: str
) -> None:
    settings = s3_settings(scheme + moto.removeprefix("http://"), location=location, **more)
    data = pickle.dumps(stored(settings))
    stores["lab"] = settings
    assert (pickle.loads(data).load() == A).all()


HIDDEN = "SuperSecret12"
UNC = "\\\\"
NOT_PUBLIC: list[dict[str, Any]] = [
    {"location": f"user:{HIDDEN}@host/folder"},
    {"location": f"user:with/slash{HIDDEN}@host/folder"},
    {"location": f"//user:{HIDDEN}@host/folder"},
    {"location": f"ftp:/user:{HIDDEN}@host"},
    {"location": f"smb:user:{HIDDEN}@host"},
    {"location": f"folder?sig={HIDDEN}"},
    {"location": f"folder?unheard-of={HIDDEN}"},
    {"location": [f"ftp://user:{HIDDEN}@host"]},
    {"location": f"a;AccountKey={HIDDEN}"},
    {"location": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0." + HIDDEN},
    {"bucket": f"b?sig={HIDDEN}"},
    {"account_name": f"acc?sv=1&sig={HIDDEN}"},
    {"project": f"DefaultEndpointsProtocol=https;AccountKey={HIDDEN}"},
    {"region": f"us;SharedAccessSignature=sig={HIDDEN}"},
    {"hash_prefix": f"Bearer {HIDDEN}"},
    {"stage": f"{UNC}user:{HIDDEN}@host{UNC[0]}share"},
    {"stage": f"//user:{HIDDEN}@host/share"},
    {"stage": f"/x/{HIDDEN}", "password": HIDDEN},
    {"stage": "/x/hunter22", "password": "hunter22"},
    {"location": "x/a%2Fb%2Bcdef", "password": "a/b+cdef"},
]


@pytest.mark.parametrize("settings", NOT_PUBLIC)
def test_what_has_the_form_of_a_secret_stays(settings: dict[str, Any]) -> None:
    full = {"protocol": "test-ftp", "location": "l", "subfolding": [2], **settings}
    data = pickled(full)
    ref = pickle.loads(data)
    assert ("subfolding", (2,)) in ref._config.identity
    assert HIDDEN in str(settings) or "password" in settings
    for text in (HIDDEN, "hunter22", "a%2Fb%2Bcdef", "a/b+cdef"):
        assert text.encode() not in data
        assert text not in str(ref._config.identity)
    assert tokenize(ref) == tokenize(pickle.loads(data))


@pytest.mark.parametrize("location", ["user:{}@host/folder", "smb:user:{}@host", "folder?a={}"])
def test_an_error_that_names_a_place_has_no_login(stores: dict[str, Any], location: str) -> None:
    place = location.format(HIDDEN)
    stores["lab"] = {"protocol": "memory", "location": place, "bucket": "one"}
    ref = pickle.loads(pickled({"protocol": "memory", "location": place, "bucket": "other"}))
    with pytest.raises(StoreError, match="where this reference was pickled, and memory at") as said:
        ref.load()
    assert HIDDEN not in str(said.value)
    stores["lab"] = s3_settings("http://127.0.0.1:9", bucket=f"b?sig={HIDDEN}")
    with pytest.raises(StoreError, match="no name of a bucket") as said:
        pickle.loads(pickled(stores["lab"])).load()
    assert HIDDEN not in str(said.value)


PUBLIC: list[dict[str, Any]] = [
    {"protocol": "file", "location": "/data/2024-01-01T10:30@rig/what?x=1&sig=2"},
    {"protocol": "file", "location": "/l", "stage": "C:\\data\\10:30@rig\\me@lab"},
    {"protocol": "file", "location": "/l", "stage": "/scratch/10:30@rig?x=1"},
    {"protocol": "file", "location": f"{UNC}server{UNC[0]}me@lab#1"},
    {"protocol": "file", "location": "/l", "partition_pattern": "{a}:{b}@{c}?d=e"},
    {"protocol": "gcs", "bucket": "my.lab-1", "location": "lab/token=1/me@lab/run#3/10:30/what?"},
    {"protocol": "s3", "endpoint": "https://s3.amazonaws.com", "bucket": "b", "location": "me@lab"},
    {"protocol": "file", "location": "/data/mouse", "mode": "mouse"},
    {"protocol": "memory", "location": "l", "kind": "memory"},
]


@pytest.mark.parametrize("settings", PUBLIC)
def test_what_only_looks_like_a_secret_travels(settings: dict[str, Any]) -> None:
    ref = pickle.loads(pickled(settings))
    travelled = dict(ref._config.identity[1:])
    if settings["protocol"] == "file":  # made absolute, which is another thing on this system
        travelled["location"] = settings["location"]
    assert {**settings, **travelled} == settings
    assert settings.keys() - travelled.keys() <= {"mode", "kind"}


@pytest.mark.parametrize(
    "settings",
    [
        {"subfolding": [2, 2], "token_length": 8},
        {"stage": Path("/tmp/stage")},
        {"hash_prefix": "_hash", "filepath_prefix": "_files", "partition_pattern": "{a}"},
    ],
)
def test_every_setting_pickles_and_hashes(settings: dict[str, Any], tmp_path: Path) -> None:
    data = pickle.dumps(stored({"protocol": "file", "location": tmp_path, **settings}))
    ref = pickle.loads(data)
    assert (ref.load() == A).all()
    again = pickle.loads(pickle.dumps(ref))
    assert hash(again._config.identity) == hash(ref._config.identity)
    assert dict(again._config.identity[1:]).keys() == {"protocol", "location", *settings}
    assert tokenize(ref) == tokenize(pickle.loads(data))


def test_a_description_has_one_form_whatever_the_order() -> None:
    settings = {"protocol": "file", "location": "/x", "token_length": 8}
    orders = (settings.items(), [*settings.items()][::-1])
    one, other = (tokenize(pickle.loads(pickled(dict(items)))) for items in orders)
    assert one == other


# --- thread-safe mode, and Instances ------------------------------------------------------------

THREAD_SAFE = """
import json, pickle, sys
import datajoint as dj
import dj_npy

way, data, settings = sys.argv[1], bytes.fromhex(sys.argv[2]), json.loads(sys.argv[3])
ref = pickle.loads(data)
if way == "use_config":
    config = dj.settings._create_config()       # as that of an Instance
    config.stores = {"lab": settings}
    dj_npy.use_config(config)
try:
    print(ref.load().sum())
except dj_npy.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("way", ["DJ_STORES", "use_config", "nothing"])
@pytest.mark.parametrize("thread_safe", [True, False])
def test_each_way_that_is_named_works(
    moto: str, location: str, tmp_path: Path, way: str, thread_safe: bool
) -> None:
    settings = s3_settings(moto, location=location)
    data = pickle.dumps(stored(settings))
    environment = {k: v for k, v in os.environ.items() if k != "DJ_IGNORE_CONFIG_FILE"}
    if thread_safe:
        environment["DJ_THREAD_SAFE"] = "true"
    if way == "DJ_STORES":
        environment["DJ_STORES"] = json.dumps({"lab": settings})
    arguments = [way, data.hex(), json.dumps(settings)]
    done = run("-c", THREAD_SAFE, *arguments, env=environment, cwd=tmp_path)
    assert done.stderr == ""
    if way != "nothing":
        assert done.stdout.strip() == "66.0"
        return
    assert "environment variable DJ_STORES" in done.stdout
    assert ("dj_npy.use_config" in done.stdout) == thread_safe
    assert ("dj.config.stores['lab']" in done.stdout) == (not thread_safe)
    assert SECRET_KEY not in done.stdout


# --- a folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("data", "{cwd}/data"),
        ("", "{cwd}"),
        ("~/data", "{home}/data"),
        ("file:///data", "/data"),
        ("file:data", "{cwd}/data"),
    ],
)
def test_a_folder_that_would_mean_another_elsewhere_is_refused(
    stores: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stores["lab"] = {"protocol": "file", "location": said}
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": dj.config}
    with pytest.raises(StoreError, match="`location` must be an absolute path") as error:
        dj_npy.NpyCodec().encode(A, key={"id": 1}, context=context, store_name="lab")
    expected = meant.format(cwd=tmp_path, home=Path.home())
    assert str(error.value).endswith(f"Perhaps {expected!r} is meant")
    assert list(tmp_path.iterdir()) == []
