"""The GUI as its user sees it, in a real browser, and what it says to others: nothing."""

import ast
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from studio import __main__ as door
from tests.standins import browser as browsers
from tests.standins import servers
from tests.studio.conftest import N_SAMPLES, ROOT, Run, Server, environment, started

SCREENSHOTS = ROOT / ".cache" / "studio" / "screenshots"
USABLE = 21


@pytest.fixture(scope="module")
def server(local: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(local, tmp_path_factory.mktemp("local")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from browsers.launched()


class Watched:
    """A page, and what went wrong in it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1500, "height": 950})
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda each: self._say(each.type, each.text, each.location.get("url", "")))
        self.page.on("request", lambda each: self._ask(each.url, url))
        self.page.on("websocket", lambda each: self._ask(each.url, url))
        self.page.goto(url)
        self.page.get_by_role("button", name="Dismiss").click()  # a tour

    def _say(self, kind: str, text: str, url: str) -> None:
        # That there is nothing to report to is what we asked for; and a browser without a screen has no WebGPU.
        if kind == "error" and not url.endswith("/api/analytics/config") and "WebGPU" not in text:
            self.errors.append(f"{text} {url}")

    def _ask(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:")):
            self.foreign.append(url)

    def check(self, name: str) -> None:
        """Takes a screenshot; nothing may have gone wrong, and no one else have been asked."""
        self.page.wait_for_load_state("networkidle")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
        assert (self.errors, self.foreign) == ([], [])

    def thumbnails(self) -> int:
        """How many images are there and have pixels."""
        found: int = self.page.evaluate(
            "[...document.images].filter(it => it.src.includes('/images/sample/') && it.naturalWidth > 100).length"
        )
        return found


def test_pictures_boxes_and_the_tag(server: Server, browser: Browser) -> None:
    watched = Watched(browser, server.url)
    page = watched.page
    page.get_by_text(f"Showing {USABLE} images").wait_for()
    page.wait_for_function("document.images.length >= 21 && [...document.images].every(each => each.complete)")
    assert watched.thumbnails() == USABLE
    tag = page.get_by_text(f"coral-{N_SAMPLES}-")
    assert tag.count() == 1
    for text in ("Uncertainty Entropy", "Num Boxes", "person", "car"):
        page.get_by_text(re.compile(f"^{text}$", re.IGNORECASE)).first.wait_for()
    watched.check("all")

    tag.click()
    page.get_by_text(f"Showing {N_SAMPLES} of {USABLE} images").wait_for()
    page.get_by_test_id("sort-by-trigger").click()
    page.get_by_text("metadata.rank").click()
    page.wait_for_timeout(1000)
    assert page.get_by_test_id("sample-grid-item").count() == N_SAMPLES
    assert page.get_by_test_id("sample-annotation-item").count() > 0
    watched.check("picks")

    page.get_by_test_id("side-panel-tabs-embed").click()
    page.get_by_text("Included by filters").wait_for()
    page.wait_for_timeout(2000)
    watched.check("embeddings")
    page.get_by_test_id("side-panel-tabs-embed").click()

    page.get_by_test_id("sample-grid-item").first.dblclick()
    page.get_by_test_id("annotation_box").first.wait_for()
    assert page.get_by_text("reason:").is_visible()
    assert page.get_by_text("rank:").is_visible()
    watched.check("best")


def test_pictures_of_a_bucket(remote: Run, bucket: dict[str, str], browser: Browser, tmp_path: Path) -> None:
    with started(remote, tmp_path, **bucket) as server:
        watched = Watched(browser, server.url)
        watched.page.get_by_text(f"Showing {USABLE} images").wait_for()
        watched.page.wait_for_function(
            "document.images.length >= 21 && [...document.images].every(each => each.complete)"
        )
        assert watched.thumbnails() == USABLE
        watched.check("bucket")
        check_connections(server)


def check_connections(server: Server) -> None:
    """No name was looked up, and no one but this machine connected to."""
    for line in server.connections.read_text().splitlines():
        values = ast.literal_eval(line)
        assert values[0] in ("127.0.0.1", "localhost"), line


def test_nothing_goes_out(server: Server) -> None:
    """Not even for a search, for which other installations load a model."""
    (collection,) = [each for each in server.ask("/api/collections") if each["sample_type"] == "image"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.ask(f"/api/text_embedding/for_collection/{collection['collection_id']}?query_text=car")
    assert refused.value.code == 409
    with pytest.raises(urllib.error.HTTPError) as off:
        server.ask("/api/analytics/config")
    assert off.value.code == 404
    check_connections(server)
    assert "ERROR: Server Error 404" not in server.printed.read_text()


def test_what_it_prints(server: Server, local: Run) -> None:
    printed = server.printed.read_text()
    for text in (
        f"Loading the results in {local.output}, with the images in {local.source} ...",
        "Skipping 1 image that the job could not use: see failures.jsonl.",
        f"{USABLE} images", f"{USABLE} embeddings", f"{N_SAMPLES} picks", f"Open {server.url} and",
        f"tick the tag coral-{N_SAMPLES}-",
    ):  # fmt: skip
        assert text in printed


@pytest.mark.parametrize(("path", "headers", "status"), [
    ("/api/version", {}, 200),
    ("/api/version", {"Origin": "{url}"}, 200),
    ("/api/version", {"Host": "localhost:{port}"}, 200),
    ("/api/version", {"Origin": "https://other.example"}, 403),
    ("/api/version", {"Origin": "null"}, 403),
    ("/api/version", {"Host": "other.example:{port}"}, 403),
    ("/{file}", {}, 403),
    ("/..{file}", {}, 403),
    ("/%2e%2e{file}", {}, 403),
])  # fmt: skip
def test_others_are_refused(server: Server, path: str, headers: dict[str, str], status: int, tmp_path: Path) -> None:
    """Other pages of the same browser, and other users of the same machine that want files."""
    (secret := tmp_path / "secret.txt").write_text("secret")
    port = server.url.rpartition(":")[2]
    filled = {name: value.format(url=server.url, port=port) for name, value in headers.items()}
    request = urllib.request.Request(server.url + path.format(file=secret), headers=filled)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status


def test_only_this_machine_is_served(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.socket() as other:  # another address of this machine, which a server for everyone would answer
        other.settimeout(5)
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_the_port_is_in_use(server: Server, local: Run, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.url.rpartition(":")[2]
    assert door.main(["--output", local.output, "--port", port]) == 64
    assert f"Cannot use port {port} on 127.0.0.1 (Address already in use)" in capsys.readouterr().err


def test_ctrl_c_ends_it(local: Run, tmp_path: Path) -> None:
    (port,) = servers.free_ports(1)
    command = [
        sys.executable, "-m", "tests.studio.watched", str(tmp_path / "log"), str(tmp_path / "cache"),
        "--output", local.output, "--port", str(port),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if "Uvicorn running" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
