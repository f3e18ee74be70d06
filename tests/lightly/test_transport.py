"""How the platform is called: what is tried again, and where the token is not: see `tests.lightly.test_upload`."""

import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from job.errors import AccessDenied, JobError
from job.lightly import transport
from job.lightly.api import Platform
from job.lightly.transport import Transport
from job.parts.pool import Pool
from job.secret import Secret
from job.storage.local import LocalFolder
from tests.conftest import ROOT, clean_environment
from tests.standins.lightly_client import IMPATIENT, connect, send
from tests.standins.lightly_server import TOKEN, Fault, LightlyServer


def test_a_token_that_is_not_accepted(server: LightlyServer) -> None:
    with pytest.raises(AccessDenied, match="this token for the request to look up the dataset") as caught:
        connect(server, token="f" * 32).find_dataset_by_name("the set")
    assert "f" * 32 not in str(caught.value)
    server.refusals.clear()


@pytest.mark.parametrize("code", ["DATASET_AT_MAX_CAPACITY", "TEAM_ACCOUNT_PLAN_INSUFFICIENT"])
def test_a_limit_of_the_account_is_not_blamed_on_the_token(
    code: str, server: LightlyServer, small: tuple[LocalFolder, Pool]
) -> None:
    server.fail("create_sample_with_urls", Fault(403, 1000, code=code))
    with pytest.raises(transport.Refused, match=f"refused the request to add a sample: made to fail .403 {code}"):
        send(server, *small)


@pytest.mark.parametrize("kind", ["reset", 500, 400, 403])
def test_the_token_is_in_no_error(kind: str | int, server: LightlyServer, caplog: pytest.LogCaptureFixture) -> None:
    server.fail("get_quota", Fault(kind, 1000))
    caplog.set_level(logging.DEBUG)
    platform = connect(server)
    try:
        with pytest.raises(JobError) as caught:
            platform.quota()
        raise caught.value
    except JobError as error:
        logging.getLogger("job").exception("as at the top")
        seen: list[BaseException] = [error]
        while after := seen[-1].__cause__ or seen[-1].__context__:
            seen.append(after)
        assert not any(TOKEN in repr(each) + str(each) for each in seen)
    ours = [each.getMessage() + (each.exc_text or "") for each in caplog.records if not each.name.startswith("urllib3")]
    assert len(ours) > 0 and not any(TOKEN in each for each in ours)


def test_whatever_is_logged_is_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    from job import logs

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure("text")
        shown = Secret("to/ken+that=is&odd")
        logging.getLogger("urllib3").error("GET /v1/quota?token=%s", "to%2Fken%2Bthat%3Dis%26odd")
        try:
            raise RuntimeError(f"with {shown.value}")
        except RuntimeError:
            logging.getLogger("x").exception("failed")
    finally:
        root.handlers[:], root.level = before
    text = capsys.readouterr().err
    assert "token=***" in text and "RuntimeError: with ***" in text


LISTEN = """
import sys, time
if sys.argv[1] == "job":
    import job
import lightly.api
time.sleep(1.5)
"""


def test_importing_lightly_calls_nobody(server: LightlyServer) -> None:
    def call(first: str) -> int:
        before = server.calls.total() + len(server.refusals)
        environment = clean_environment(LIGHTLY_SERVER_LOCATION=server.url)
        subprocess.run([sys.executable, "-c", LISTEN, first], cwd=ROOT, env=environment, check=True, timeout=60)
        return server.calls.total() + len(server.refusals) - before

    assert call("lightly") == 1, "lightly asks for its newest version"
    server.refusals.clear()
    assert call("job") == 0


def test_the_environment_may_exempt_the_platform_from_its_proxy(
    server: LightlyServer, small: tuple[LocalFolder, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport._proxies.cache_clear()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    send(server, *small)
    assert len(server.dataset("the set").samples) == 8


def test_waits_as_long_as_it_is_asked_to(server: LightlyServer) -> None:
    server.fail("get_quota", Fault(429, 1))
    patient = replace(IMPATIENT, longest_asked=10.0)
    start = time.monotonic()
    assert Platform(Transport(Secret(TOKEN), server.url, threading.Event(), patient)).quota() == 100_000
    assert time.monotonic() - start >= 1
