"""Weights by URL: junk is not kept, sizes are limited, nothing is read over connections that others can change."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

from job.detect import config, download, model, weights
from job.errors import ServiceUnavailable, SettingsError
from job.uris import is_protected
from tests.conftest import settings


class Server(http.server.BaseHTTPRequestHandler):
    """A server whose answers are odd, depending on the path."""

    data = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if "endless" not in self.path:
            self.send_header("Content-Length", "abc" if "badlength" in self.path else str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data)
        try:
            while "endless" in self.path:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setattr(Server, "data", b"<html>Log in</html>")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_junk_is_not_kept(
    small_rcnn: tuple[Path, Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ours = settings(model=str(small_rcnn[0]), weights=f"{server}/{name}")
    for _ in range(2):
        with pytest.raises(SettingsError):
            model.build(ours)
        assert kept(tmp_path) == []
    assert Server.asked == [f"/{name}"] * 2
    if name == "a.pth":  # the server has recovered
        monkeypatch.setattr(Server, "data", small_rcnn[1].read_bytes())
        assert model.build(ours).weights_sha256 == weights.sha256(small_rcnn[1])


def test_a_file_of_the_user_that_cannot_be_read_stays(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"junk")
    with pytest.raises(SettingsError):
        model.build(settings(model=str(small_rcnn[0]), weights=str(own)))
    assert own.read_bytes() == b"junk"


def test_the_sha256_that_is_expected(
    small_rcnn: tuple[Path, Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_rcnn[1].read_bytes()
    monkeypatch.setattr(Server, "data", data)
    right = hashlib.sha256(data).hexdigest()
    ours = {"model": str(small_rcnn[0]), "weights": f"{server}/a.pth"}
    with pytest.raises(SettingsError, match=f"have the SHA-256 {right}, but CORAL_WEIGHTS_SHA256 is {'0' * 64}"):
        model.build(settings(**ours, weights_sha256="0" * 64))
    assert kept(tmp_path) == []
    assert model.build(settings(**ours, weights_sha256=right)).weights_sha256 == right


@pytest.mark.parametrize("path", ["/endless.pth", "/large.pth"])
def test_a_file_that_is_too_large(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(Server, "data", bytes(1_000_001))
    with pytest.raises(SettingsError, match="are larger than the limit of 0 GB: correct the URL") as caught:
        weights.fetch(f"{server}{path}?signature=s3cret")
    assert "s3cret" not in str(caught.value) and kept(tmp_path) == []
    assert Server.asked == [f"{path}?signature=s3cret"]  # it is not tried again


def test_a_length_that_is_no_number(server: str) -> None:
    assert weights.fetch(f"{server}/badlength.pth").read_bytes() == Server.data


def test_where_a_redirect_may_lead(server: str, tmp_path: Path) -> None:
    assert weights.fetch(f"{server}/to//moved.pth").read_bytes() == Server.data
    assert Server.asked.pop() == "/moved.pth"
    for target in ("http://192.0.2.1/a.pth", "http://169.254.169.254/latest/meta-data/", "ftp://127.0.0.1/a.pth"):
        with pytest.raises(ServiceUnavailable, match="the server redirects to a URL without https"):
            weights.fetch(f"{server}/to/{target}")
    assert kept(tmp_path) == [path for path in kept(tmp_path) if path.name == "moved.pth"]


@pytest.mark.parametrize(
    ("start", "target", "says"),
    [
        ("https://host/a.pth", "http://host/a.pth", "a URL without https"),
        ("https://host/a.pth", "http://127.0.0.1/a.pth", "a URL without https"),  # of this machine, but not the user's
        (weights.OFFICIAL_ZOO + "a.pkl", "https://host/a.pkl", "a URL outside of detectron2's model zoo"),
    ],
)
def test_redirects_from_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, target: str, says: str
) -> None:
    """The answer of a server with https is made by hand: no certificate of such a host can be had."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[str] = []

    def send(adapter: Any, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        asked.append(str(request.url))
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, str(request.url), request
        answer.headers["Location"] = target
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with pytest.raises(ServiceUnavailable, match=says):
        weights.fetch(start)
    assert asked == [start]


def test_weights_without_https_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"CORAL_WEIGHTS='http://host/a\.pth' is not encrypted: use an https URL"):
        weights.fetch("http://host/a.pth")
    hosts = {"https://host/a": True, "http://localhost:8/a": True, "http://[::1]/a": True, "http://127.1.2.3/a": True}
    hosts |= {"http://localhost.evil/a": False, "http://[": False, "http://127.0.0.1@host/a": False, "file:///a": False}
    assert {url: is_protected(url) for url in hosts} == hosts


@pytest.mark.parametrize("host", ["{server}", "https://192.0.2.1"])
def test_a_config_is_not_based_on_a_url(server: str, tmp_path: Path, host: str) -> None:
    own = tmp_path / "own.yaml"
    base = tmp_path / "base.yaml"
    own.write_text("_BASE_: base.yaml\n")
    for text in (f"_BASE_: {host}/base.yaml\n", f"_BASE_: [{host}/base.yaml]\n"):
        base.write_text(text.replace("{server}", server))
        with pytest.raises(SettingsError, match=r"CORAL_MODEL has the _BASE_ 'http.*base.yaml', which is not a local"):
            config.read(settings(model=str(own), weights="w"))
    assert Server.asked == []
