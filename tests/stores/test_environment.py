"""Certificates, proxies, encryption: what the environment says counts for parent and child."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

import dj_npy
from dj_npy._stores import amazon, opening
from dj_npy._stores.environment import encryption, proxy_for
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.obstore import clients
from tests.support import warm
from tests.support.conformance import PLAIN, beginning, create
from tests.support.faults import proxy_of
from tests.support.references import store_of
from tests.support.servers import (
    ACCESS_KEY,
    AZURITE_ACCOUNT,
    AZURITE_KEY,
    BUCKET,
    SECRET_KEY,
    free_port,
    missing,
    s3_client,
    s3_settings,
    started,
)

VARIABLES = (
    *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what this machine's environment says of the network out of it."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# Small and large, so that one is read through obstore or fsspec, the other directly.
USE = """
import json, os, sys
import numpy as np
import datajoint as dj
import dj_npy

dj.config.stores = {"default": "main", "main": json.loads(sys.argv[1])}
codec = dj_npy.NpyCodec()
small, large = np.arange(10.0), np.arange(1_100_000.0)

def use(who):
    context = {"schema": who, "table": "t", "field": "a", "config": dj.config}
    for key, array in enumerate((small, large)):
        row = codec.encode(array, key={"id": key}, context=context)
        ref = codec.decode(row, context=context)
        assert (ref.load() == array).all()
        assert (dj_npy.NpyRef(row, dj.config)[3:5] == array[3:5]).all()

def main():
    use("parent")
    child = os.fork()
    if not child:
        try:
            use("child")
        except BaseException as error:
            print("child:", error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print("both")

try:
    main()
except dj_npy.NpyError as error:
    print(error)
"""


def use(settings: dict[str, Any], **environment: str) -> str:
    """Return what a process says that writes and reads, and forks one that does."""
    bare = {name: value for name, value in os.environ.items() if name.upper() not in VARIABLES}
    return warm.output("-c", USE, json.dumps(settings), env={**bare, **environment}, timeout=200)


# --- certificates --------------------------------------------------------------------------------

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
        location / {{ proxy_pass {behind}; proxy_set_header Host $http_host; }}
    }}
}}
"""


def nginx(folder: Path) -> list[str]:
    """Return the command that serves as ``nginx.conf`` in a folder says."""
    command = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if command is None:
        missing("nginx", "apt-get install nginx-light")
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    return [command, *user, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certified(moto: str, tmp_path_factory: Any) -> Iterator[tuple[str, Path]]:
    """An HTTPS server in front of moto, and the certificate of the private authority behind it."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "rsa:2048", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=lab authority",
        "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE", cwd=folder,
    )  # fmt: skip
    openssl("req", *key, "-keyout", "server.key", "-out", "csr", "-subj", "/CN=l", cwd=folder)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        "x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "server.pem", "-days", "2", "-extfile", "names", cwd=folder,
    )  # fmt: skip
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, behind=moto))
    with started(nginx(folder), port):
        yield f"https://127.0.0.1:{port}", folder / "ca.pem"


@pytest.mark.parametrize("variable", VARIABLES[:4])
def test_each_variable_serves_parent_child_and_direct_reads(
    certified: tuple[str, Path], location: str, variable: str
) -> None:
    url, authority = certified
    settings = s3_settings(url, location=location)
    assert use(settings, **{variable: str(authority)}) == "both"


def test_an_unknown_certificate_is_called_so(certified: tuple[str, Path], location: str) -> None:
    said = use(s3_settings(certified[0], location=location))
    assert "certificate" in said
    assert "AWS_CA_BUNDLE" in said


@pytest.mark.slow
def test_an_authority_that_cannot_be_read_is_named(location: str) -> None:
    said = use(s3_settings("https://127.0.0.1:9"), AWS_CA_BUNDLE="/no/such/file.pem")
    assert "AWS_CA_BUNDLE names '/no/such/file.pem'" in said


@pytest.mark.parametrize("contents", ["no certificate", "", "-----BEGIN CERTIFICATE-----\nAAAA"])
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
def test_a_file_without_an_authority_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, through: str, contents: str
) -> None:
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    (tmp_path / "ca.pem").write_text(contents)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(dj_npy.StoreError, match=r"variable AWS_CA_BUNDLE names '.*/ca.pem'.* none"):
        store_of(s3_settings("https://127.0.0.1:9"))


# --- proxies -------------------------------------------------------------------------------------


class Proxy:
    """A real proxy, and what it has passed on."""

    def __init__(self, port: int, log: Path) -> None:
        self.url, self._log = f"http://127.0.0.1:{port}", log

    @property
    def passed(self) -> int:
        return self._log.read_text().count(f"/{BUCKET}/")


PROXY = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format asked '$request'; access_log {folder}/log asked; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://$http_host$request_uri; proxy_set_header Host $http_host; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: Any) -> Iterator[Proxy]:
    """For ``http://``, which is all that the tests' stores speak."""
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    (folder / "nginx.conf").write_text(PROXY.format(folder=folder, port=port))
    with started(nginx(folder), port):
        yield Proxy(port, folder / "log")


@pytest.mark.parametrize("how", ["HTTP_PROXY", "ALL_PROXY", "proxy_server"])
def test_all_go_through_the_proxy(moto: str, location: str, proxy: Proxy, how: str) -> None:
    settings, environment = s3_settings(moto, location=location), {how: proxy.url}
    if how == "proxy_server":
        settings, environment = {**settings, how: proxy.url}, {}
    before = proxy.passed
    assert use(settings, **environment) == "both"
    through = proxy.passed - before
    with_exception = proxy.passed
    if how == "HTTP_PROXY":
        assert use(settings, **environment, NO_PROXY="127.0.0.1") == "both"
        assert proxy.passed == with_exception
    assert through >= 12  # 2 who write and read 2 arrays, the second time in part


@pytest.mark.parametrize(
    "environment",
    [
        {"HTTP_PROXY": DEAD, "NO_PROXY": "127.0.0.0/8"},
        {"HTTP_PROXY": DEAD, "NO_PROXY": "10.1.2.3, 127.0.0.1:{port}"},
        {"HTTP_PROXY": DEAD, "NO_PROXY": "*"},
        {"ALL_PROXY": DEAD, "NO_PROXY": "elsewhere.org,*"},
        {"HTTP_PROXY": DEAD, "NO_PROXY": "elsewhere.org", "no_proxy": "127.0.0.1"},
        {"HTTP_PROXY": DEAD, "http_proxy": ""},
        {"HTTP_PROXY": DEAD, "REQUEST_METHOD": "GET"},  # CGI, where a client can set it
    ],
    ids=str,
)
def test_exceptions_are_the_same_for_all(
    moto: str, location: str, environment: dict[str, str]
) -> None:
    port = moto.rpartition(":")[2]
    environment = {name: value.format(port=port) for name, value in environment.items()}
    assert use(s3_settings(moto, location=location), **environment) == "both"


@pytest.mark.parametrize(
    "environment",
    [
        {"http_proxy": "{proxy}", "HTTP_PROXY": DEAD},
        {"HTTP_PROXY": "{proxy}", "ALL_PROXY": DEAD},
        {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1", "no_proxy": "elsewhere.org"},
        {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1:1,127.0.1.0/24,7.0.0.1"},
    ],
    ids=str,
)
def test_all_choose_the_same_proxy(
    moto: str, location: str, proxy: Proxy, environment: dict[str, str]
) -> None:
    before = proxy.passed
    environment = {name: value.format(proxy=proxy.url) for name, value in environment.items()}
    assert use(s3_settings(moto, location=location), **environment) == "both"
    assert proxy.passed - before >= 12


@pytest.mark.parametrize(
    ("url", "exceptions", "directly"),
    [
        ("https://s3.lab.org", "lab.org", True),
        ("https://s3.lab.org", ".LAB.org", True),
        ("https://s3.lab.org", "s3.lab.org:443", True),
        ("https://s3.lab.org:9000", "s3.lab.org:443", False),
        ("https://s3.mylab.org", "lab.org", False),
        ("https://10.1.2.3", "10.1.0.0/16", True),
        ("https://10.2.2.3", "10.1.0.0/16", False),
        ("https://[fd00::1]:9000", "fd00::/8", True),
        ("https://[fd00::1]:9000", "fd00::1", True),
        ("https://s3.lab.org", "nonsense/99, ,", False),
    ],
)
def test_hosts_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, exceptions: str, directly: bool
) -> None:
    monkeypatch.setenv("https_proxy", DEAD)
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_for(url) is None) == directly


@pytest.mark.parametrize("through", ["obstore", "fsspec"])
def test_a_proxy_that_not_every_client_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:SECRET@127.0.0.1:9")
    with pytest.raises(dj_npy.StoreError, match="begins with socks5h://, and must") as caught:
        store_of(s3_settings("http://127.0.0.1:9"))
    assert "SECRET" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store_of(s3_settings("http://127.0.0.1:9"))


@pytest.mark.parametrize("how", ["HTTPS_PROXY", "ALL_PROXY", "proxy_server"])
def test_the_region_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings, asked = s3_settings("https://s3.amazonaws.com"), []

    def refuse(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            asked.append(connection.recv(4096).decode())
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        proxy = f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"
        if how == "proxy_server":
            settings[how] = proxy
        else:
            monkeypatch.setenv(how, proxy)
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        with pytest.raises(dj_npy.StoreError, match=r"could not ask s3\.amazonaws\.com"):
            store_of(settings)
        thread.join()
    assert asked[0].startswith("CONNECT s3.amazonaws.com:443 ")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]


@pytest.mark.parametrize("how", ["HTTP_PROXY", "ALL_PROXY", "proxy_server"])
@pytest.mark.parametrize("exceptions", ["", "127.0.0.1"])
def test_what_urllib_asks_goes_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, moto: str, proxy: Proxy, how: str, exceptions: str
) -> None:
    spec: dict[str, Any] = {"endpoint": moto, "bucket": BUCKET}
    monkeypatch.setenv("NO_PROXY", exceptions)
    if how == "proxy_server":
        spec[how] = proxy.url
    else:
        monkeypatch.setenv(how, proxy.url)
    url, through = f"{moto}/{BUCKET}/", how == "proxy_server" or not exceptions
    for ask in (
        lambda: amazon.server_time(url, spec.get("proxy_server")),
        lambda: amazon.bucket_region(url, spec.get("proxy_server")),
    ):
        before = proxy.passed
        ask()
        time.sleep(0.2)  # nginx writes its log after it has answered
        assert (proxy.passed > before) == through


@pytest.mark.slow
@pytest.mark.parametrize("how", ["HTTP_PROXY", "proxy_server"])
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
def test_a_dead_proxy_is_called_so(
    monkeypatch: pytest.MonkeyPatch, how: str, through: str, location: str
) -> None:
    from dj_npy._stores import opening, remote

    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    monkeypatch.setattr(remote, "RETRY_S", 1)
    settings = s3_settings("http://nowhere.invalid", location=location)
    dead = f"http://127.0.0.1:{free_port()}"
    if how == "proxy_server":
        settings[how] = dead
    else:
        monkeypatch.setenv("HTTP_PROXY", dead)
    with pytest.raises(dj_npy.StoreError, match=f"through the proxy {dead}"):
        store_of(settings).read_beginning("lab/a.npy", 10)


# --- encryption ----------------------------------------------------------------------------------


def test_what_the_bucket_wants_encrypted_is_sent_so(moto: str, location: str) -> None:
    said = use(
        s3_settings(moto, location=location),
        AWS_SERVER_SIDE_ENCRYPTION="aws:kms",
        AWS_SSE_KMS_KEY_ID="arn:aws:kms:us-east-1:123456789012:key/of-the-lab",
    )
    assert said == "both"
    client = s3_client(moto)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=location)["Contents"]
    keys = [each["Key"] for each in listed if each["Key"].endswith(".npy")]
    assert len(keys) == 4
    for key in keys:
        head = client.head_object(Bucket=BUCKET, Key=key)
        assert head["ServerSideEncryption"] == "aws:kms", key
        assert head["SSEKMSKeyId"].endswith("key/of-the-lab")


@pytest.mark.parametrize(("value", "enabled"), [("True", True), ("no", False)])
def test_a_key_of_the_bucket_is_a_truth_value_to_botocore(
    monkeypatch: pytest.MonkeyPatch, value: str, enabled: bool
) -> None:
    monkeypatch.setenv("AWS_SSE_BUCKET_KEY_ENABLED", value)
    assert encryption() == {"BucketKeyEnabled": enabled}


@pytest.mark.parametrize("through", ["obstore", "fsspec"])
def test_who_pays_is_said(
    moto: str, location: str, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    with proxy_of(moto) as proxy:
        store = store_of(s3_settings(proxy.endpoint, location=location))
        path = create(store, b"contents")
        assert beginning(store, path, 8) == (b"contents", 8)
        store.remove(path)
        assert len(proxy.requests) >= 4
        for each in proxy.requests:
            assert each.headers.get("x-amz-request-payer") == "requester", each


# --- what one client alone would read ------------------------------------------------------------

CONFIGS = {
    "virtual": "[default]\ns3 =\n  addressing_style = virtual\n",
    "accelerated": "[default]\ns3 =\n  use_accelerate_endpoint = true\n",
    "authority": "[default]\nca_bundle = /no/such/bundle.pem\n",
    "broken": "this is = no [ini\n",
}


@pytest.fixture
def by_name(moto: str) -> str:
    """Moto by a host that has a name, before which a bucket's could be put."""
    return moto.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("config", CONFIGS)
def test_files_of_amazon_s_tools_do_not_change_a_store_with_keys(
    by_name: str, location: str, tmp_path: Path, config: str
) -> None:
    (tmp_path / "config").write_text(CONFIGS[config])
    settings = s3_settings(by_name, location=location)
    assert use(settings, AWS_CONFIG_FILE=str(tmp_path / "config")) == "both"


def test_files_of_amazon_s_tools_have_credentials_and_no_more(
    by_name: str, location: str, tmp_path: Path
) -> None:
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (tmp_path / "config").write_text(f"[profile lab]\n{keys}{CONFIGS['virtual'].partition(']')[2]}")
    settings = s3_settings(by_name, location=location)
    del settings["access_key"], settings["secret_key"]
    said = use(settings, AWS_CONFIG_FILE=str(tmp_path / "config"), AWS_PROFILE="lab")
    assert said == "both"
    assert "lab-of-others" in use(settings, AWS_PROFILE="lab-of-others")


@pytest.mark.parametrize(
    "environment",
    [
        # Several at a time, of which none makes up for what another would do.
        {"AWS_PROFILE": "lab-of-others", "AWS_CONDITIONAL_PUT": "disabled", "AWS_PROXY_URL": DEAD},
        {
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_RETRY_MODE": "nonsense",
            "AWS_MAX_ATTEMPTS": "nonsense",
        },
        {"AWS_UNSIGNED_PAYLOAD": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"},
        {"AWS_ENDPOINT": DEAD, "AWS_ENDPOINT_URL": DEAD, "AWS_ENDPOINT_URL_S3": DEAD},
        {
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_USE_DUALSTACK_ENDPOINT": "true",
            "AWS_S3_EXPRESS": "true",
        },
    ],
    ids=str,
)
def test_variables_that_one_client_alone_would_read_do_not_count(
    by_name: str, location: str, environment: dict[str, str]
) -> None:
    assert use(s3_settings(by_name, location=location), **environment) == "both"


def test_conditions_that_obstore_has_no_way_to_send_are_as_if_they_were_ignored(
    moto: str, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = S3Store
    monkeypatch.setattr(
        clients, "S3Store", lambda *a, **said: made(*a, **{**said, "conditional_put": "disabled"})
    )
    store = store_of(s3_settings(moto, location=location))
    path = create(store, b"contents")
    assert path != PLAIN
    assert beginning(store, path, 8) == (b"contents", 8)


# --- redirects -----------------------------------------------------------------------------------


class Elsewhere:
    """A server that sends everybody to another one, which notes what comes along."""

    def __init__(self) -> None:
        self.came: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.but_buckets = False
        outer = self

        class Noting(BaseHTTPRequestHandler):
            def do_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.came.append((self.path, headers))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any

            def log_message(self, *_: Any) -> None:
                pass

        class Sending(Noting):
            def do_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if (
                    outer.but_buckets
                    and self.command == "HEAD"
                    and self.path.strip("/").count("/") == 0
                ):
                    self.send_response(200)
                else:
                    outer.sent += 1
                    self.send_response(307)
                    self.send_header("Location", f"http://localhost:{outer.there}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), each) for each in (Noting, Sending)]
        self.there = self.servers[0].server_port
        self.url = f"http://127.0.0.1:{self.servers[1].server_port}"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    found = Elsewhere()
    threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in found.servers]
    for thread in threads:
        thread.start()
    yield found
    for server in found.servers:
        server.shutdown()
        server.server_close()
    for thread in threads:
        thread.join()


TOKEN, SIGNATURE = "a-session-token", "the-signature-of-azure"


def azure_settings(url: str, how: str) -> dict[str, Any]:
    connection = f"BlobEndpoint={url}/acc;AccountName=acc;{how}"
    return {"protocol": "azure", "container": BUCKET, "location": "x",
            "connection_string": connection}  # fmt: skip


@pytest.mark.parametrize("through", ["obstore", "fsspec"])
@pytest.mark.parametrize("but_buckets", [True, False])
@pytest.mark.parametrize("keys", ["ambient", "configured", "signature", "account key"])
def test_no_secret_goes_where_a_redirect_leads(
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    keys: str,
    through: str,
    but_buckets: bool,
) -> None:
    from dj_npy._stores import opening, remote

    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    monkeypatch.setattr(remote, "RETRY_S", 0.1)
    elsewhere.but_buckets = but_buckets
    settings = s3_settings(elsewhere.url)
    if keys == "ambient":
        del settings["access_key"], settings["secret_key"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    elif keys == "signature":
        signature = f"SharedAccessSignature=sv=2021-12-02&sp=r&sr=c&sig={SIGNATURE}"
        settings = azure_settings(elsewhere.url, signature)
    elif keys == "account key":
        settings = azure_settings(elsewhere.url, f"AccountKey={AZURITE_KEY}")
    store = store_of(settings)
    for work in (
        lambda store: store.read_beginning("lab/a.npy", 10),
        lambda store: store.read_into("lab/a.npy", 0, [memoryview(bytearray(20 << 20))]),
        lambda store: create(store, b"contents"),
        lambda store: store._copy("lab/a.npy", "lab/b.npy"),
        lambda store: store.remove("lab/a.npy"),
        lambda store: list(store.files()),
    ):
        elsewhere.sent = 0
        with pytest.raises(dj_npy.StoreError) as refused:
            work(store)
        assert elsewhere.sent > 0
        if keys in ("ambient", "signature"):
            assert "credentials are not taken along" in str(refused.value)
    for path, headers in elsewhere.came:
        assert "authorization" not in headers
        assert "x-amz-security-token" not in headers
        for secret in (TOKEN, SIGNATURE, SECRET_KEY, AZURITE_KEY):
            assert secret not in f"{path} {headers}"
    # Who has something that would be taken along goes nowhere.
    if keys in ("ambient", "signature"):
        assert elsewhere.came == []


@pytest.mark.parametrize("what", ["s3", "azure"])
def test_what_is_not_trusted_to_obstore_is_written_and_read(
    moto: str, azurite: str, location: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from azure.storage.blob import generate_container_sas

    settings = s3_settings(moto, location=location)
    if what == "s3":
        del settings["access_key"], settings["secret_key"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    else:
        signature = generate_container_sas(
            AZURITE_ACCOUNT,
            BUCKET,
            AZURITE_KEY,
            permission="racwdl",
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
        endpoint = azurite.split("BlobEndpoint=")[1].strip(";")
        connection = f"BlobEndpoint={endpoint};SharedAccessSignature={signature}"
        settings = {"protocol": "azure", "container": BUCKET, "location": location,
                    "account_name": AZURITE_ACCOUNT, "connection_string": connection}  # fmt: skip
    store = store_of(settings)
    assert isinstance(store, GenericStore)
    path = create(store, b"contents")
    assert store.read_beginning(path, 20)[0] == b"contents"
    assert [each.path for each in store.files() if not each.path.startswith(".")] == [path]
    store.remove(path)
    with pytest.raises(dj_npy.ArrayMissingError):
        store.read_beginning(path, 20)


@pytest.mark.parametrize("who", ["info", "obstore", "fsspec"])
def test_the_login_of_a_proxy_stays_with_it(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    from dj_npy._cli.remotefile import beginning_of_url
    from dj_npy._stores import opening, remote

    monkeypatch.setenv("HTTP_PROXY", f"http://user:the-password@{elsewhere.url[7:]}")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setattr(remote, "RETRY_S", 1)
    monkeypatch.setattr(opening, "_forked", who == "fsspec")
    read: Any
    if who == "info":
        _, read = beginning_of_url("http://data.example/a.npy?X-Amz-Signature=the-password")
    else:
        read = partial(store_of(s3_settings("http://data.example")).read_beginning, "lab/a.npy")
    with pytest.raises(dj_npy.StoreError):
        read(10)
    assert elsewhere.sent > 0
    assert elsewhere.came or who != "info"  # through the proxy, or nowhere
    basic = b64encode(b"user:the-password").decode()
    for path, headers in elsewhere.came:
        assert "proxy-authorization" not in headers
        assert not any(text in f"{path} {headers}" for text in (basic, "the-password"))


def test_a_basic_login_of_an_address_stays_where_it_is_sent(elsewhere: Elsewhere) -> None:
    from dj_npy._cli.remotefile import beginning_of_url

    _, beginning = beginning_of_url(f"http://me:secret@{elsewhere.url[7:]}/a.npy")
    with pytest.raises(dj_npy.StoreError, match="403"):
        beginning(10)
    assert elsewhere.came
    assert all("authorization" not in headers for _, headers in elsewhere.came)
