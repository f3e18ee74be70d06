"""The platform's own selection, and datasources: see `tests.lightly.test_upload`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from job import secret
from job.errors import SettingsError, TryAgain
from job.lightly import datasource
from job.parts import pool as pools
from job.parts.pool import Pool
from job.secret import Secret
from job.settings import Settings
from job.storage.local import LocalFolder
from tests.exports.test_lightly_files import filled
from tests.standins.lightly_client import NAMES, PICKS, send, state
from tests.standins.lightly_server import Fault, LightlyServer


def test_the_platform_selects(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    scores = dict(zip(pool.file_names, pool.scores["uncertainty_entropy"], strict=True))
    labelled = ["t.jpg"]
    lowest = sorted((name for name in NAMES if name not in labelled), key=lambda name: (scores[name], name))[:3]
    answer = send(server, output, pool, lightly_select="platform", labelled=labelled)
    assert answer is not None and sorted(answer) == sorted(lowest)
    held = state(server.dataset("the set"))
    assert held["tags"]["coral-3-0123abcd"][0] == sorted(lowest)
    assert held["tags"]["coral-3-0123abcd-platform"][0] == sorted([*lowest, "t.jpg"]), (
        "the platform counts the labelled"
    )
    assert json.loads(output.read("lightly.json"))["selected_by"] == "platform"
    again = send(server, output, pool, lightly_select="platform", labelled=labelled)
    assert again == answer and state(server.dataset("the set")) == held and server.calls["select"] == 1


def test_a_selection_that_was_begun_is_waited_for(
    server: LightlyServer, small: tuple[LocalFolder, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail("get_job", Fault("reset", 1000))
    with pytest.raises(TryAgain):
        send(server, *small, lightly_select="platform")
    server.faults.clear()
    assert send(server, *small, lightly_select="platform") is not None
    assert server.calls["select"] == 1


def test_a_platform_that_no_longer_selects(
    server: LightlyServer, small: tuple[LocalFolder, Pool], caplog: pytest.LogCaptureFixture
) -> None:
    server.selects = False
    assert send(server, *small, lightly_select="platform") is None
    assert "refused the request to start a selection: selection is gone (410 NOT_IMPLEMENTED). Falling" in caplog.text
    assert state(server.dataset("the set"))["tags"]["coral-3-0123abcd"][0] == sorted(PICKS)
    server.refusals.clear()


@pytest.mark.parametrize("status", [403, 410, 500])
def test_a_platform_that_does_not_select_for_this_account(
    status: int, server: LightlyServer, small: tuple[LocalFolder, Pool], caplog: pytest.LogCaptureFixture
) -> None:
    server.fail("select", Fault(status, 1000, code="ACCOUNT_SUBSCRIPTION_INSUFFICIENT"))
    assert send(server, *small, lightly_select="platform") is None
    assert "Falling back to the job's own selection." in caplog.text
    assert state(server.dataset("the set"))["tags"]["coral-3-0123abcd"][0] == sorted(PICKS)


def test_a_selection_whose_answer_is_lost_is_found(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    server.fail("select", Fault("lost", 1))
    answer = send(server, *small, lightly_select="platform")
    assert answer is not None and len(answer) == 3
    held = state(server.dataset("the set"))["tags"]
    assert held["coral-3-0123abcd"][0] == held["coral-3-0123abcd-platform"][0] == sorted(answer)


ROLE = {"lightly_role_arn": "arn:aws:iam::123456789012:role/reader", "lightly_external_id": Secret("an-external-id")}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-secret-key")


@pytest.mark.usefixtures("aws")
def test_a_datasource_by_a_role(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    more: dict[str, Any] = {"lightly_datasource": True, "input": "s3://images/a", "output": "s3://results/b", **ROLE}
    send(server, *small, **more)
    dataset = server.dataset("the set")
    role = {"s3ARN": ROLE["lightly_role_arn"], "s3ExternalId": "an-external-id", "s3Region": "eu-central-1"}
    role |= {"type": "S3DelegatedAccess"}
    assert dataset.datasources == {
        "INPUT": {"purpose": "INPUT", "fullPath": "s3://images/a", **role},
        "LIGHTLY": {"purpose": "LIGHTLY", "fullPath": "s3://results/b", **role},
    }
    assert all(each.files == {} for each in dataset.samples), "the platform reads the images itself"
    changed = more | {"lightly_external_id": Secret("another-external-id")}
    send(server, *small, **changed)
    assert {each["s3ExternalId"] for each in dataset.datasources.values()} == {"another-external-id"}
    with pytest.raises(SettingsError, match=r"reads its INPUT files from 's3://images/a', not from 's3://images/c'"):
        send(server, *small, **more | {"input": "s3://images/c"})


@pytest.mark.usefixtures("aws")
def test_a_datasource_by_keys(
    server: LightlyServer, small: tuple[LocalFolder, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server, *small, lightly_datasource=True, input="s3://images/a")
    assert server.dataset("the set").datasources == {
        "INPUT": {
            "purpose": "INPUT", "type": "S3", "fullPath": "s3://images/a", "s3Region": "eu-central-1",
            "s3AccessKeyId": "AKIAEXAMPLE", "s3SecretAccessKey": "a-long-secret-key",
        }
    }  # fmt: skip
    assert secret.hide_secrets("it is a-long-secret-key.") == "it is ***."
    wanted = Settings(input="s3://images/a", output="out", lightly_datasource=True)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    with pytest.raises(SettingsError, match="temporary AWS keys"):
        datasource.configs(wanted)
    monkeypatch.setenv("AWS_REGION", "the-moon-1")
    with pytest.raises(SettingsError, match="does not support 'the-moon-1'"):
        datasource.configs(wanted)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="Amazon's S3 only"):
        datasource.configs(wanted)


def test_files_are_not_written_into_somebodys_bucket(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    theirs = server.add_dataset("the set")
    theirs.datasources["INPUT"] = {
        "purpose": "INPUT", "type": "S3DelegatedAccess", "fullPath": "s3://theirs", "s3Region": "eu-central-1",
        "s3ARN": ROLE["lightly_role_arn"], "s3ExternalId": "of-somebody",
    }  # fmt: skip
    with pytest.raises(SettingsError, match="could overwrite them"):
        send(server, *small, lightly_images="full")
    send(server, *small)
    assert len(theirs.samples) == 8 and all(each.files == {} for each in theirs.samples)


LATER_CALLS = [
    "get_dataset", "list_datasources", "set_datasource", "get_write_urls", "embedding_read_url", "get_file",
    "delete_embedding", "enlarge_tags", "select", "get_job", "list_scores", "get_scores", "create_tag",
]  # fmt: skip


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("kind", ["reset", "lost", 409, 520])
def test_the_other_calls_are_made_again_as_well(kind: str | int, server: LightlyServer, tmp_path: Path) -> None:
    """A second round: more images, an upload that broke off, a datasource, and the platform's selection."""
    server.polls_until_read = 0
    one, first = filled(tmp_path / "one", NAMES[:5])
    made = server.add_dataset("the set")
    send(server, one, first, lightly_dataset=made.id)
    both, second = filled(tmp_path / "two", NAMES, per_part=8)
    server.fail("set_predictions", Fault("reset", 1000))
    with pytest.raises(TryAgain):
        send(server, both, second, run_id="00000002", lightly_dataset=made.id)
    server.faults.clear()
    server.calls.clear()
    for call in LATER_CALLS:
        server.fail(call, Fault(kind, 1))
    more: dict[str, Any] = {"lightly_datasource": True, "input": "s3://images/a", **ROLE}
    more |= {"lightly_images": "thumbnails", "lightly_select": "platform", "lightly_dataset": made.id}
    answer = send(server, both, second, run_id="00000002", **more)
    assert answer is not None and len(answer) == 3
    rarely = {"embedding_read_url", "get_file", "delete_embedding", "list_scores", "get_scores"}
    assert set(LATER_CALLS) - server.calls.keys() <= rarely
    held = state(made)
    assert [each[0] for each in held["samples"]] == sorted(NAMES)
    thumbnails = pools.thumbnails(both, second, range(len(NAMES)))
    for each in made.samples:
        assert each.files == {"thumb": thumbnails[second.file_names.index(each.body["fileName"])]}
    assert held["tags"]["coral-3-00000002"] == (sorted(answer), 8)
    assert len([name for name in held["tags"] if name.startswith("coral-3")]) == 3
