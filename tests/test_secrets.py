"""Credentials: in no pickle, no message, no chain of errors, no log."""

import base64
import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import cloudpickle
import datajoint as dj
import pytest
from tblib import pickling_support

import dj_npy
from dj_npy import NpyError
from dj_npy._stores import Store, opening
from tests.conformance import create
from tests.faults import Fault, proxy_of
from tests.servers import ACCESS_KEY, AZURITE_KEY, BUCKET, SECRET_KEY, s3_settings
from tests.test_conformance import location, store_of
from tests.test_remote import impatient

__all__ = ["impatient", "location"]  # fixtures

SECRET = "tOp+s3cr3t/of=tests"
USER = "AKIA0123456789SECRET"
OTHER_KEY = base64.b64encode(b"the key of another account, 32 b").decode()


def disguises(secret: str) -> set[str]:
    """A secret, and how it looks in URLs, in JSON and in headers."""
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    return {secret, quote(secret), quote(secret, ""), quote_plus(secret), json.dumps(secret), basic}


PLAIN_S3 = {"protocol": "s3", "bucket": "b", "location": "l", "endpoint": "https://host"}
SETTINGS: dict[str, dict[str, Any]] = {
    "s3 keys": {**PLAIN_S3, "access_key": USER, "secret_key": SECRET},
    "s3 token": {**PLAIN_S3, "access_key": USER, "secret_key": SECRET, "token": SECRET},
    "endpoint": {**PLAIN_S3, "endpoint": f"https://user:{SECRET}@host:9000"},
    "endpoint without a scheme": {**PLAIN_S3, "endpoint": f"user:{SECRET}@host:9000"},
    "proxy": {**PLAIN_S3, "proxy_server": f"http://user:{SECRET}@proxy:3128"},
    "gcs text": {"protocol": "gcs", "bucket": "b", "location": "", "token": SECRET},
    "gcs key": {
        "protocol": "gcs",
        "bucket": "b",
        "location": "",
        "token": {"type": "service_account", "private_key": SECRET, "nested": [{"deep": SECRET}]},
    },
    "azure key": {
        "protocol": "azure",
        "container": "c",
        "location": "",
        "account_name": "name",
        "account_key": SECRET,
    },
    "azure connection": {
        "protocol": "azure",
        "container": "c",
        "location": "",
        "connection_string": f"AccountName=name;AccountKey={SECRET};BlobEndpoint=https://host",
    },
    "azure signature": {
        "protocol": "azure",
        "container": "c",
        "location": "",
        "connection_string": f"BlobEndpoint=https://host;SharedAccessSignature=sv=1&sig={SECRET}",
    },
    "a plugin's own": {"protocol": "test-ftp", "location": "l", "password_of_ours": SECRET},
    "a plugin's nested": {"protocol": "test-ftp", "location": "l", "login": {"pass": [SECRET]}},
    "a plugin's location": {"protocol": "test-ftp", "location": f"ftp://user:{SECRET}@host/folder"},
}
PICKLERS: dict[str, Callable[[Any], bytes]] = {
    **{f"protocol {n}": partial(pickle.dumps, protocol=n) for n in range(6)},
    "cloudpickle": cloudpickle.dumps,
    "a deep copy's": lambda ref: pickle.dumps(copy.deepcopy(ref)),
    "a copy's": lambda ref: pickle.dumps(copy.copy(ref)),
    "a pickle's": lambda ref: pickle.dumps(pickle.loads(pickle.dumps(ref))),
}


@pytest.fixture
def configured() -> Iterator[dict[str, Any]]:
    before = dj.config.stores
    stores: dict[str, Any] = {"default": "cloud"}
    dj.config.stores = stores
    yield dj.config.stores  # a copy
    dj.config.stores = before


@pytest.mark.parametrize("pickler", PICKLERS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_no_pickle_of_a_reference_holds_a_secret(
    configured: dict[str, Any], settings: str, pickler: str
) -> None:
    configured["cloud"] = SETTINGS[settings]
    row = {"path": "a.npy", "store": "cloud", "dtype": "float64", "shape": [1]}
    ref = dj_npy.NpyCodec().decode(row, context={"config": dj.config})
    data = PICKLERS[pickler](ref)
    assert SECRET in json.dumps(dj.config.stores)
    assert b"protocol" in data
    for text in (SECRET, USER):
        for disguise in disguises(text):
            assert disguise.encode() not in data
    assert pickle.loads(data).path == "a.npy"
    assert SECRET not in repr(ref)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came of, shown or not."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def told(error: BaseException) -> str:
    """All that an error says, itself and by those it came of; these are in Dask's pickles, too."""
    pickling_support.install()
    said = [part for each in chain(error) for part in (str(each), repr(each), repr(each.args))]
    said += traceback.format_exception(error)
    assert len(str(error)) > 20
    return "\n".join([*said, repr(pickle.dumps(error)), str(pickle.loads(pickle.dumps(error)))])


def read(store: Store) -> Any:
    return store.read_beginning("lab/a.npy", 10)


def load(store: Store) -> Any:
    return store.read_into("lab/a.npy", 0, [memoryview(bytearray(20 << 20))])


def write(store: Store) -> Any:
    return create(store, b"contents")


def upload(store: Store) -> Any:
    return create(store, bytes(70 << 20))


def walk(store: Store) -> Any:
    return list(store.files())


def copied(store: Store) -> Any:
    return store.copied(iter(["lab/b.npy", "lab/c.npy"]), "lab/a.npy", 10)


def mapped(store: Store) -> Any:
    return store.open_to_map("lab/a.npy")


def changed(store: Store) -> Any:
    return store.open_to_change("lab/a.npy")


USES = [read, load, write, walk, copied, mapped, changed, Store.stat, Store.remove]


def fewest() -> int:
    """How many uses are refused at least: some that find nothing have nothing to refuse."""
    return 2 if opening._forked else 7


def refusals(settings: dict[str, Any], secrets: list[str], caplog: Any) -> int:
    """Use a store in every way; no refusal says a secret. Returns how many there were."""
    caplog.set_level(logging.DEBUG, "dj_npy")
    refused = 0
    for use in (read, write) if opening._forked else USES:
        try:
            opening._opened.clear()
            store = store_of(settings)
            use(store, "lab/a.npy") if use in (Store.stat, Store.remove) else use(store)  # type: ignore[operator]
        except NpyError as error:
            refused += 1
            said = told(error) + caplog.text
            for secret in secrets:
                for disguise in disguises(secret):
                    assert disguise not in said, f"{use.__name__}: {said}"
    return refused


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
class TestMessages:
    @pytest.fixture(autouse=True)
    def way(self, through: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "_forked", through == "fsspec")

    def test_a_wrong_key(self, rclone: str, caplog: Any) -> None:
        settings = s3_settings(rclone, secret_key=SECRET)
        assert refusals(settings, [SECRET, ACCESS_KEY], caplog) >= fewest()

    def test_an_unknown_key(self, rclone: str, caplog: Any) -> None:
        settings = s3_settings(rclone, access_key=USER, secret_key=SECRET)
        assert refusals(settings, [SECRET, USER], caplog) >= fewest()

    def test_no_bucket(self, moto: str, caplog: Any) -> None:
        settings = s3_settings(moto, bucket="no-such-bucket")
        assert refusals(settings, [SECRET_KEY, ACCESS_KEY], caplog) >= fewest()

    @pytest.mark.slow
    @pytest.mark.parametrize("where", ["http://127.0.0.1:9"])
    def test_no_server(self, where: str, caplog: Any) -> None:
        settings = s3_settings(where)
        assert refusals(settings, [SECRET_KEY, ACCESS_KEY], caplog) >= fewest()

    def test_no_secure_connection(self, moto: str, caplog: Any) -> None:
        settings = s3_settings(moto.replace("http:", "https:"))
        assert refusals(settings, [SECRET_KEY, ACCESS_KEY], caplog) >= fewest()

    @pytest.mark.parametrize("status", [400, 403])
    def test_a_server_that_quotes_the_request(
        self, moto: str, status: int, caplog: Any, location: str
    ) -> None:
        """As Amazon does: its answer to a bad signature has the access key in it."""
        with proxy_of(moto) as proxy:
            settings = s3_settings(proxy.endpoint, location=location)
            code = f"Bad</Code><Message>key {ACCESS_KEY} {SECRET_KEY} </Message><Code>"
            proxy.harm = lambda request: Fault(status=status, code=code)
            assert refusals(settings, [SECRET_KEY, ACCESS_KEY], caplog) >= fewest()

    @pytest.mark.slow
    def test_a_proxy_with_a_password(self, caplog: Any) -> None:
        settings = s3_settings(
            "http://nowhere.invalid", proxy_server=f"http://user:{SECRET}@127.0.0.1:9"
        )
        assert refusals(settings, [SECRET, SECRET_KEY, ACCESS_KEY], caplog) >= fewest()

    def test_an_azure_key(self, azurite: str, caplog: Any, location: str) -> None:
        settings = {
            "protocol": "azure",
            "container": BUCKET,
            "location": location,
            "connection_string": azurite.replace(AZURITE_KEY, OTHER_KEY),
        }
        assert refusals(settings, [OTHER_KEY], caplog) >= fewest()

    def test_an_azure_signature(self, azurite: str, caplog: Any, location: str) -> None:
        endpoint = azurite.split("BlobEndpoint=")[1].strip(";")
        signature = quote(SECRET, "")
        settings = {
            "protocol": "azure",
            "container": BUCKET,
            "location": location,
            "connection_string": f"BlobEndpoint={endpoint};AccountName=devstoreaccount1;"
            f"SharedAccessSignature=sv=2021-12-02&sp=r&sr=c&sig={signature}",
        }
        assert refusals(settings, [SECRET, signature], caplog) >= fewest()

    def test_an_azure_container_that_is_not_there(self, azurite: str, caplog: Any) -> None:
        settings = {
            "protocol": "azure",
            "container": "no-such-container",
            "location": "",
            "connection_string": azurite,
        }
        assert refusals(settings, [AZURITE_KEY], caplog) >= fewest()
