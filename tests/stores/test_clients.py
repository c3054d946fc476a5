"""From DataJoint's settings of a store to the requests that are sent."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import obstore
import pytest
from botocore.loaders import JSONFileLoader

from dj_npy import StoreError
from dj_npy._stores import amazon, opening
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.obstore import clients
from dj_npy._stores.obstore.store import CloudStore
from dj_npy._stores.secret import Redactor
from tests.support.conformance import beginning, create
from tests.support.references import store_of
from tests.support.servers import (
    ACCESS_KEY,
    AZURITE_ACCOUNT,
    AZURITE_KEY,
    BUCKET,
    S3Raw,
    s3_settings,
)


class Listener:
    """A server that notes what it is asked and refuses everything."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_any(self) -> None:
                outer.asked.append((self.command, self.path, dict(self.headers.items())))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.send_header("x-amz-bucket-region", "eu-north-1")
                self.end_headers()

            do_GET = do_PUT = do_HEAD = do_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.05,))
    thread.start()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of this machine's, and none of the network's."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def sent(listener: Listener, settings: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(StoreError, match="access denied"):
        store_of(settings).read_beginning("lab/a.npy", 10)
    return listener.asked[0]


@pytest.mark.parametrize(
    "said", [{"endpoint": "{}", "secure": False}, {"endpoint": "http://{}/", "secure": True}]
)
@pytest.mark.parametrize("where", ["a/b", "/a/b/", "a//b"])
def test_endpoint_bucket_and_location(listener: Listener, said: dict[str, Any], where: str) -> None:
    said = {**said, "endpoint": said["endpoint"].format(listener.address), "location": where}
    method, path, headers = sent(listener, {**s3_settings(""), **said})
    assert (method, path) == ("GET", f"/{BUCKET}/a/b/lab/a.npy")
    assert f"Credential={ACCESS_KEY}/" in headers["authorization"]
    assert "/us-east-1/s3/" in headers["authorization"]


def test_no_location(listener: Listener) -> None:
    settings = s3_settings(f"http://{listener.address}", location="")
    assert sent(listener, settings)[1] == f"/{BUCKET}/lab/a.npy"


def test_the_same_keys_through_fsspec(
    moto: str, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings(moto, location=f"/{location}//deeper/")
    path = create(store_of(settings), b"contents")
    assert S3Raw(moto, f"{location}/deeper").get(path) == b"contents"
    monkeypatch.setattr(opening, "_forked", True)
    assert beginning(store_of(settings), path, 20) == (b"contents", 8)


def test_secure_is_the_default() -> None:
    settings = s3_settings("127.0.0.1:9")
    assert amazon.endpoint_of("main", settings) == "https://127.0.0.1:9"
    assert amazon.endpoint_of("main", {**settings, "secure": False}) == "http://127.0.0.1:9"


def test_the_region_of_the_environment(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    settings = s3_settings(f"http://{listener.address}")
    assert "/eu-central-1/s3/" in sent(listener, settings)[2]["authorization"]


def test_the_environment_is_not_mixed_into_the_settings_of_the_store(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-other-credentials")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    headers = sent(listener, s3_settings(f"http://{listener.address}"))[2]
    assert f"Credential={ACCESS_KEY}/" in headers["authorization"]
    assert "of-other-credentials" not in str(headers)


def ambient(listener: Listener) -> dict[str, Any]:
    settings = s3_settings(f"http://{listener.address}")
    del settings["access_key"], settings["secret_key"]
    return settings


def test_credentials_of_a_profile(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = OFPROFILE\naws_secret_access_key = secret\n"
        "aws_session_token = a-token\n"
    )
    headers = {k.lower(): v for k, v in sent(listener, ambient(listener))[2].items()}
    assert "Credential=OFPROFILE/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "a-token"


def test_no_credentials_at_all(listener: Listener) -> None:
    with pytest.raises(StoreError, match="there are no AWS credentials on this machine") as caught:
        store_of(ambient(listener))
    assert "\n" not in str(caught.value)
    assert listener.asked == []


@pytest.mark.parametrize(
    ("endpoint", "environment", "region"),
    [
        ("s3.eu-west-3.amazonaws.com", "us-west-1", "eu-west-3"),
        ("s3-eu-west-1.amazonaws.com", None, "eu-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", None, "cn-north-1"),
        ("s3.amazonaws.com", "us-west-1", "us-west-1"),
        ("s3.amazonaws.com", None, "ap-south-1"),
        ("s3.us-gov-west-1.amazonaws.com", None, "us-gov-west-1"),
    ],
)
def test_amazon_itself(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, environment: str | None, region: str
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clients, "S3Store", lambda *_, **options: made.append(options))
    regions = {f"https://s3.amazonaws.com/{BUCKET}": "ap-south-1"}
    monkeypatch.setattr(amazon, "bucket_region", regions.pop)
    if environment:
        monkeypatch.setenv("AWS_REGION", environment)
    store_of(s3_settings(endpoint))
    assert len(made) == 6
    china = ".cn" if endpoint.endswith(".cn") else ""
    for options in made:
        assert options["region"] == region
        assert options["virtual_hosted_style_request"] is True
        assert options["endpoint"] == f"https://{BUCKET}.s3.{region}.amazonaws.com{china}"
        assert options["aws_endpoint_url_s3"] == options["endpoint"]
        assert options["client_options"]["allow_http"] is False
    assert bool(regions) is (region != "ap-south-1")


def test_a_bucket_tells_its_region(listener: Listener) -> None:
    url = f"http://{listener.address}/{BUCKET}"
    assert amazon.bucket_region(url) == "eu-north-1"
    assert listener.asked[0][:2] == ("HEAD", f"/{BUCKET}")
    with pytest.raises(StoreError, match="set AWS_REGION"):
        amazon.bucket_region("http://127.0.0.1:9/bucket")


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("vpce-1a2b.s3.eu-west-3.vpce.amazonaws.com", "eu-west-3"),
        ("s3-accelerate.amazonaws.com", "us-east-1"),
    ],
)
def test_other_endpoints_of_amazon_are_used_as_they_are(
    monkeypatch: pytest.MonkeyPatch, host: str, region: str
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clients, "S3Store", lambda *_, **options: made.append(options))
    store_of(s3_settings(host))
    assert made[0]["endpoint"] == f"https://{host}"
    assert made[0]["region"] == region


@pytest.mark.parametrize("key", ["schema_prefix", "partition_pattern", "token_length"])
def test_a_setting_of_the_wrong_type(key: str, store: Path) -> None:
    from types import SimpleNamespace

    stores = {"main": {"protocol": "file", "location": str(store), key: ["x"]}}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    with pytest.raises(StoreError, match=f"`{key}` must be of type"):
        opening.schema_addressing(config, opening.open_store(config, "main"))


def test_a_default_that_is_no_name(store: Path) -> None:
    from types import SimpleNamespace

    stores = {"default": {"protocol": "file", "location": str(store)}}
    with pytest.raises(StoreError, match="must be the name of a store"):
        opening.open_store(SimpleNamespace(stores=stores, get_store_spec=None), None)


def test_a_row_whose_store_is_called_default(store: Path) -> None:
    from types import SimpleNamespace

    stores = {"default": "main", "main": {"protocol": "file", "location": str(store)}}
    with pytest.raises(StoreError, match="no store is called 'default'"):
        opening.open_store(SimpleNamespace(stores=stores, get_store_spec=None), "default")


def test_secrets_of_a_plugin_are_found_at_any_depth() -> None:
    options = {"auth": {"password": "nested-pw"}, "hosts": ["list-pw", 5]}
    redactor = Redactor({"protocol": "x", "options": options})
    assert redactor.redact("nested-pw, list-pw, 5") == "***, ***, 5"


def test_a_proxy_server(listener: Listener) -> None:
    settings = s3_settings("http://nowhere.invalid", proxy_server=f"http://{listener.address}")
    assert sent(listener, settings)[1] == f"http://nowhere.invalid/{BUCKET}/deep/location/lab/a.npy"


def azure(**said: Any) -> dict[str, Any]:
    return {"protocol": "azure", "container": BUCKET, "location": "x", **said}


@pytest.mark.parametrize(
    "said",
    [
        {"connection_string": f"AccountName=me;AccountKey={AZURITE_KEY};BlobEndpoint=URL/me"},
        {
            "account_name": "me",
            "account_key": AZURITE_KEY,
            "connection_string": "BlobEndpoint=URL/me/",
        },
    ],
)
def test_azure_account_and_key(listener: Listener, said: dict[str, str]) -> None:
    url = f"http://{listener.address}"
    _, path, headers = sent(listener, azure(**{k: v.replace("URL", url) for k, v in said.items()}))
    assert path == f"/me/{BUCKET}/x/lab/a.npy"
    assert headers["authorization"].startswith("SharedKey me:")


def test_azure_shared_access_signature(listener: Listener) -> None:
    url = f"http://{listener.address}/me"
    signature = "sv=2024&sig=the-signature%3D"
    settings = azure(
        connection_string=f"BlobEndpoint={url};SharedAccessSignature={signature}",
        account_name="me",
    )
    store = store_of(settings)
    with pytest.raises(StoreError) as caught:
        store.read_beginning("lab/a.npy", 10)
    assert "sig=the-signature" in listener.asked[0][1]
    assert "the-signature" not in str(caught.value)
    assert "the-signature" not in repr(store)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        (
            {"account_name": "me", "account_key": "a2V5"},
            {"account_name": "me", "access_key": "a2V5",
             "endpoint": "https://me.blob.core.windows.net"},
        ),
        (
            {"connection_string": "DefaultEndpointsProtocol=https;AccountName=me;"
             "AccountKey=a2V5MQ==;EndpointSuffix=core.chinacloudapi.cn"},
            {"account_name": "me", "access_key": "a2V5MQ==",
             "endpoint": "https://me.blob.core.chinacloudapi.cn"},
        ),
        ({"connection_string": "UseDevelopmentStorage=true"}, {"use_emulator": True}),
        (
            {"connection_string": "BlobEndpoint=https://me.blob.core.windows.net;"
             "SharedAccessSignature=sig=1"},
            {"account_name": "me", "sas_token": "sig=1",
             "endpoint": "https://me.blob.core.windows.net"},
        ),
    ],
)  # fmt: skip
def test_azure_settings(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], options: dict[str, Any]
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clients, "AzureStore", lambda *_, **options: made.append(options))
    store_of(azure(**said))
    for key in ("prefix", "client_options", "retry_config"):
        del made[0][key]
    if "use_emulator" not in options:  # nor does the environment say so
        options = {"endpoint": "https://me.blob.core.windows.net", **options}
        options |= {"use_emulator": False, "skip_signature": False}
    if provide := made[0].pop("credential_provider", None):
        assert provide().pop("expires_at", None) is None
        made[0] |= {key: value for key, value in provide().items() if key != "expires_at"}
    assert made[0] == options


def test_azure_without_an_account() -> None:
    with pytest.raises(StoreError, match="no `account_name` and no `connection_string`"):
        store_of(azure())


def test_azure_with_the_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clients, "AzureStore", lambda *_, **options: made.append(options))
    store_of(azure(account_name="me"))
    provider, _ = made[0]["credential_provider"].args
    assert type(provider).__name__ == "AzureCredentialProvider"


def test_azure_emulator_account(azurite: str, location: str) -> None:
    store = store_of(azure(connection_string=azurite, location=location))
    assert AZURITE_ACCOUNT in store.where("x") + str(vars(store)["identity"])
    create(store, b"1")


def gcs(**said: Any) -> dict[str, Any]:
    return {"protocol": "gcs", "bucket": BUCKET, "location": "x", **said}


SERVICE_ACCOUNT = {
    "type": "service_account",
    "private_key": "",
    "private_key_id": "",
    "client_email": "",
    "disable_oauth": True,
}


def test_gcs_reads_what_an_emulator_answers(fake_gcs: str, location: str, tmp_path: Path) -> None:
    """Through obstore, whose way of writing this emulator refuses."""
    import gcsfs

    filesystem = gcsfs.GCSFileSystem(
        token="anon", project="test", endpoint_url=fake_gcs, skip_instance_cache=True
    )
    contents = np.random.default_rng(0).bytes(20 << 20)
    filesystem.pipe_file(f"{BUCKET}/{location}/lab/a.npy", contents)
    token: Any = {**SERVICE_ACCOUNT, "gcs_base_url": fake_gcs}
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(token))
    for given in (token, str(key_file)):
        store = store_of(gcs(location=location, token=given))
        assert isinstance(store, CloudStore)
        buffer = bytearray(len(contents))
        assert store.read_into("lab/a.npy", 0, [memoryview(buffer)]) == len(contents)
        assert buffer == contents
        assert beginning(store, "lab/a.npy", 10) == (contents[:10], len(contents))


@pytest.mark.parametrize("token", ["browser", "cloud", {"type": "authorized_user"}])
def test_gcs_tokens_that_only_gcsfs_knows(token: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcsfs.GCSFileSystem", lambda **_: fsspec.filesystem("memory"))
    store = store_of(gcs(token=token))
    assert isinstance(store, GenericStore)


def test_gcs_anonymously(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clients, "GCSStore", lambda *_, **options: made.append(options))
    store_of(gcs(token="anon"))
    assert made[0]["skip_signature"] is True


def test_gcs_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(StoreError, match="no Google credentials on this machine"):
        store_of(gcs(token="google_default"))


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("dj_npy._stores.obstore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"pip install 'dj-npy\[s3\]'"):
        store_of(s3_settings("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (azure(account_name="me", account_key="not base64 !"), "account key is not base64"),
        (azure(connection_string="AccountName=me;BlobEndpoint=http://u:sekrit@[x"), "main"),
        (s3_settings("http://a host"), "`endpoint` must be a host"),
        (s3_settings("http://user:sekrit@host"), "`endpoint` must be a host"),
        (s3_settings("http://host/path"), "`endpoint` must be a host"),
        (s3_settings("http://localhost:99999"), "`endpoint` must be a host"),
        (s3_settings("http://host", bucket="a b"), "no name of a bucket"),
        (s3_settings("http://host", bucket=None), "no name of a bucket"),
        (s3_settings("http://host", secret_key="sekrit\n"), "`secret_key` has a line break"),
        (s3_settings("http://host", proxy_server="nonsense"), "`proxy_server` must begin"),
        ({**s3_settings("http://host"), "protocol": 5}, "no `protocol`"),
        ({"protocol": "file", "location": None}, "cannot be opened"),
        (gcs(token="/no/such/key.json"), "cannot be opened.*FileNotFoundError"),
        (gcs(token={"type": "service_account", "private_key": "sekrit"}), "main"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        store_of(settings)
    for secret in ("not base64 !", "sekrit"):
        assert secret not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["no such profile", "broken file", "failing program"])
def test_credentials_of_this_machine_that_cannot_be_had(
    listener: Listener, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "no such profile":
        monkeypatch.setenv("AWS_PROFILE", "typo")
    elif how == "broken file":
        (tmp_path / "config").write_text("[default\n")
    else:
        (tmp_path / "config").write_text("[default]\ncredential_process = false\n")
    with pytest.raises(StoreError, match="store 'main'"):
        store_of(ambient(listener)).read_beginning("a", 1)


def test_a_token_of_google_stays_out_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def unreachable(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("no route: /tokeninfo?access_token=ya29.SEKRIT-TOKEN now")

    monkeypatch.setattr("gcsfs.GCSFileSystem", unreachable)
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        store_of(gcs(token="ya29.SEKRIT-TOKEN"))
    assert "SEKRIT" not in str(caught.value)


def test_region_and_proxy_hold_through_fsspec(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_forked", True)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    headers = sent(listener, s3_settings(f"http://{listener.address}"))[2]
    assert "/eu-central-1/s3/" in headers["Authorization"]
    listener.asked.clear()
    proxied = s3_settings("http://nowhere.invalid", proxy_server=f"http://{listener.address}")
    assert sent(listener, proxied)[1].startswith(f"http://nowhere.invalid/{BUCKET}/deep/location/")


def test_what_botocore_knows_of_s3_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stores are opened in a forked process."""
    monkeypatch.setattr(opening, "_forked", True)
    store_of(s3_settings("http://127.0.0.1:9"))
    read: list[str] = []
    monkeypatch.setattr(JSONFileLoader, "load_file", lambda _, path: read.append(path))
    store_of(s3_settings("http://127.0.0.1:9", location="another"))
    assert read == []


def test_a_token_of_the_environment_does_not_replace_an_azure_key(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "othertoken")
    url = f"http://{listener.address}"
    connection = f"AccountName=me;AccountKey={AZURITE_KEY};BlobEndpoint={url}/me"
    headers = sent(listener, azure(connection_string=connection))[2]
    assert headers["authorization"].startswith("SharedKey me:")


def test_the_environment_does_not_lead_an_azure_key_elsewhere(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://{listener.address}"
    for name in ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setenv(name, url)
    for name in ("AZURE_SKIP_SIGNATURE", "AZURE_STORAGE_USE_EMULATOR", "AZURE_USE_EMULATOR"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"AccountName=you;AccountKey={AZURITE_KEY};BlobEndpoint={url}/you",
    )
    settings = azure(account_name="me", account_key=AZURITE_KEY)
    reader: Any = store_of(settings)
    signed = obstore.sign(reader._reader, "GET", "a.npy", timedelta(minutes=1))
    assert signed.startswith(f"https://me.blob.core.windows.net/{BUCKET}/x/a.npy?")
    monkeypatch.setattr(opening, "_forked", True)
    forked: Any = store_of(settings)
    assert forked._filesystem.service_client.url == "https://me.blob.core.windows.net/"


@pytest.mark.parametrize("how", ["HTTP_PROXY", "proxy_server"])
def test_google_through_fsspec_goes_through_the_proxy(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://nowhere.invalid")
    settings = gcs(token="anon", project="test")
    if how == "proxy_server":
        settings[how] = f"http://{listener.address}"
    else:
        monkeypatch.setenv(how, f"http://{listener.address}")
    with pytest.raises(StoreError, match="access denied"):
        store_of(settings).read_beginning("lab/a.npy", 10)
    assert listener.asked[0][1].startswith("http://nowhere.invalid/")


def test_every_secret_is_known_to_be_one() -> None:
    connection = "AccountName=me;AccountKey=thekey==;SharedAccessSignature=?sv=1&sig=x"
    redactor = Redactor(azure(connection_string=connection, account_key="akey", secure=True))
    for secret in (connection, "akey", "thekey==", "?sv=1&sig=x"):
        assert redactor.redact(f"said {secret}.") == "said ***."
    assert redactor.redact("true") == "true"


def test_one_client_a_store_and_process(moto: str, location: str) -> None:
    from types import SimpleNamespace

    from dj_npy._stores import open_store

    first = store_of(s3_settings(moto, location=location))
    stores = {"main": s3_settings(moto, location=location)}
    configs = [
        SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
        for _ in range(3)
    ]
    assert {open_store(config, "main") for config in configs} == {first}
    stores["main"] = s3_settings(moto, location="another")
    assert open_store(configs[0], "main") is not first
