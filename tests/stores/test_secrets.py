"""Credentials: in no pickle, no message, no chain of errors, no log."""

import base64
import copy
import json
import logging
import pickle
import re
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import cloudpickle
import datajoint as dj
import pytest
from tblib import pickling_support

import dj_npy
from dj_npy import NpyError
from dj_npy._stores import Store, opening
from dj_npy._stores.secret import Redactor
from tests.support.conformance import IN_PARTS, create
from tests.support.faults import Fault, proxy_of
from tests.support.references import store_of
from tests.support.servers import ACCESS_KEY, AZURITE_KEY, BUCKET, SECRET_KEY, s3_settings

pytestmark = pytest.mark.usefixtures("parts_from_16_mib")

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
    return create(store, bytes(IN_PARTS))


def walk(store: Store) -> Any:
    return list(store.files())


def copied(store: Store) -> Any:
    return store.create_copy(iter(["lab/b.npy", "lab/c.npy"]), "lab/a.npy", 10)


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
    opening_one = threading.Lock()

    def refusal(use: Any) -> str | None:
        try:
            with opening_one:
                store = store_of(settings)
            use(store, "lab/a.npy") if use in (Store.stat, Store.remove) else use(store)
        except NpyError as error:
            return f"{use.__name__}: {told(error)}"
        return None

    uses = (read, write) if opening._forked else USES
    with ThreadPoolExecutor(len(uses)) as pool:  # most of them wait, before they try again
        refused = [said for said in pool.map(refusal, uses) if said is not None]
    for said in [*refused, caplog.text]:
        for secret in secrets:
            for disguise in disguises(secret):
                assert disguise not in said, said
    return len(refused)


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


# --- servers that quote what they were sent ------------------------------------------------------

RENEWED = "ya29.RENEWED-ACCESS-TOKEN"


class Quoting:
    """A server that says in its answers what it was sent."""

    def __init__(self) -> None:
        self.status, self.sent = 400, list[str]()
        self.words: Callable[[str, str], str] = lambda path, header: f"Invalid token: {header}"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind = outer.status, "application/xml"
                words = outer.words(self.path, self.headers.get("Authorization") or "nothing")
                if self.path == "/token":
                    status, kind = 200, "application/json"
                    body = {"access_token": RENEWED, "expires_in": 3600, "token_type": "Bearer"}
                    answer = json.dumps(body)
                elif "storage/v1" in self.path:
                    kind = "application/json"
                    answer = json.dumps({"error": {"code": status, "message": words}})
                else:
                    answer = f"<?xml version='1.0'?><Error><Code>BadAuth</Code><Message>{words}"
                    answer += "</Message></Error>"
                if self.path != "/token":
                    outer.sent.append(words)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.encode())

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def quoting() -> Iterator[Quoting]:
    found = Quoting()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def private_key() -> str:
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_token_of_google_that_was_renewed(
    quoting: Quoting,
    private_key: str,
    status: int,
    through: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    """It is in no setting: what is known of it is its form, and whom to ask."""
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    if through == "fsspec":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", quoting.url)
    quoting.status = status
    token = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "kid",
        "private_key": private_key,
        "client_email": "a@p.iam",
        "client_id": "1",
        "token_uri": f"{quoting.url}/token",
        "gcs_base_url": quoting.url,
    }
    settings = {
        "protocol": "gcs",
        "bucket": BUCKET,
        "location": "l",
        "project": "p",
        "token": token,
    }
    with pytest.raises(NpyError) as refused:
        store_of(settings).read_beginning("lab/a.npy", 10)
    assert quoting.sent, refused.value
    handed_out = quoting.sent[0].partition("Bearer ")[2]
    assert len(handed_out) > 20
    said = told(refused.value) + caplog.text
    for part in (handed_out[:40], handed_out[-15:], RENEWED):
        assert part not in said
    assert "could not read" in said
    if status == 401:
        assert "access denied. Check the store's keys" in str(refused.value)
    elif status == 403:
        assert re.search("the server refuses this|access denied", str(refused.value))
    else:
        assert "Invalid token: Bearer ***" in str(refused.value)
    if through == "fsspec" and status != 403:
        assert "Invalid token: Bearer ***" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
@pytest.mark.parametrize("how", ["as it is", "decoded", "for HTML", "decoded, for HTML", "twice"])
def test_a_signature_that_is_quoted_in_another_form(
    quoting: Quoting, how: str, through: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    said: dict[str, Callable[[str], str]] = {
        "as it is": escape,
        "decoded": lambda path: escape(unquote(path), quote=False),
        "for HTML": lambda path: escape(escape(path)),
        "decoded, for HTML": lambda path: escape(unquote(path)),
        "twice": lambda path: escape(quote(path)),
    }
    quoting.words = lambda path, _: said[how](path)
    signature = quote(f"{SECRET}'1", "")
    connection = (
        f"BlobEndpoint={quoting.url}/acc;AccountName=acc;"
        f"SharedAccessSignature=sv=2021-12-02&sp=r&sr=c&sig={signature}"
    )
    settings = {"protocol": "azure", "container": BUCKET, "location": "x"}
    with pytest.raises(NpyError) as refused:
        store_of({**settings, "connection_string": connection}).read_beginning("lab/a.npy", 10)
    assert any("sig" in words for words in quoting.sent)
    said_of_it = told(refused.value) + caplog.text
    assert "could not read" in said_of_it
    for part in (*disguises(SECRET), signature, SECRET[:8], SECRET[-6:]):
        assert part not in said_of_it


SIGNED = quote(f"{SECRET}'1", "")
SPELLED = {
    "plainly": f"{SECRET}'1",
    "in an address": SIGNED,
    "in lower case": SIGNED.replace("%2F", "%2f"),
    "twice": quote(SIGNED),
    "by numbers": "".join(c if c.isalnum() else f"&#{ord(c)};" for c in f"{SECRET}'1"),
    "in HTML": escape(f"{SECRET}'1").replace("+", "&plus;"),
    "in JSON": json.dumps(f"{SECRET}'1").replace("/", "\\/"),
    "in JSON, by numbers": f"{SECRET}'1".replace("+", "\\u002b").replace("=", "\\u003D"),
    "in a header": base64.b64encode(f"{SECRET}'1".encode()).decode(),
}


@pytest.mark.parametrize("how", SPELLED)
@pytest.mark.parametrize("setting", ["decoded", "encoded"])
def test_every_common_encoding_is_known(how: str, setting: str) -> None:
    value = SIGNED if setting == "encoded" else f"{SECRET}'1"
    said = Redactor({"password": value}).redact(f"it was {SPELLED[how]} that was sent")
    assert said.startswith("it was ")
    assert said.endswith(" that was sent")
    for part in (SECRET[:8], SECRET[-6:], SPELLED[how]):
        assert part not in said


TOKENS = [
    "https://host/a?sig=SUPER&x=1",
    "a?x=1&amp;token=SUPER",
    "a%26sig%3DSUPER",
    "AccountKey=SUPER;EndpointSuffix=x",
    "Authorization: Bearer SUPER-0123",
    "authorization: basic U1VQRVI6U1VQRVI=SUPER",
    "SharedKey account:SUPER01234",
    "eyJhbGciOiJSUzI1NiJ9.SUPER.SUPER",
    "ftp://user:SUPER@host",
    '{"access_token": "SUPER", "x": 1}',
    "X-Amz-Credential=SUPER&X-Amz-Security-Token=SUPER",
]
NO_TOKENS = [
    "could not read 'lab/recording/token=5/session_key=3/sig=1/a.npy'",
    "Invalid token: it has expired. Basic auth is not supported",
    "https://host:9000/bucket/me@lab/10:30/x",
]


@pytest.mark.parametrize("text", TOKENS)
def test_what_has_the_form_of_a_secret_is_not_told(text: str) -> None:
    said = Redactor({}).redact(f"before {text} after")
    assert "SUPER" in text
    assert "SUPER" not in said
    assert said.startswith("before ")
    assert said.endswith(" after")


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_has_none_is_told(text: str) -> None:
    assert Redactor({}).redact(text) == text
