"""What is done when workers fail, and what a local Ray inherits. Workers are stand-ins; tests/e2e has real ones."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from job import parts
from job.detect.pieces import Piece
from job.engine.choice import Choice
from job.engine.todo import Todo
from job.errors import JobError, ServiceUnavailable, SettingsError, TryAgain
from job.secret import Secret
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing
from job.storage.local import LocalFolder
from tests.conftest import settings

pytest.importorskip("ray")

import ray
from ray import exceptions

from job.engine.ray import cluster, crew, engine  # they import Ray
from job.engine.ray.crew import Crew, Task
from job.engine.ray.worker import About, News, Notes

MADE_WITH = parts.Provenance("config", "weights", "fp32", "native", ("car",))


class Heard:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.count, self.failures, self.numbers = 0, list[str](), list[int]()

    def failed(self, row: parts.Row) -> None:
        self.failures.append(row.file_name)

    def detected(self, count: int) -> None:
        self.count += count

    def written(self, piece: Piece) -> None:
        self.numbers.append(piece.number)


def make_piece(number: int) -> Piece:
    return Piece(number, Listing.from_names([f"{number}-{image}.jpg" for image in range(3)]))


def make_pieces() -> Iterator[Piece]:
    yield from map(make_piece, range(4))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def two(heard: Heard) -> tuple[Crew, list[Any]]:
    """A crew of two workers, each with a piece that is nearly finished."""
    task = Task(
        settings(batch_size=1),
        "/",
        Shard(),
        "fp32",
        MADE_WITH,
        None,
        lambda size: todo,
        lambda piece: {},
        lambda row: None,
        heard,
    )
    todo, made = Todo(make_pieces()), Crew(task, lambda: 2, Stop())
    made._todo = todo
    members = [crew._Member(None, works=True) for _ in range(2)]
    for member in members:
        piece = todo.take(is_idle=True)
        assert piece
        member.pieces[piece.number] = piece
    made._members.extend(members)
    for member in members:
        made._hear(member, News(detected=2))
    assert heard.count == 4
    return made, members


def numbers_left(todo: Todo | None) -> list[int]:
    assert todo
    numbers = []
    while piece := todo.take(is_idle=True):
        numbers.append(piece.number)
    return sorted(numbers)


@pytest.mark.parametrize("error", [ServiceUnavailable("GPU error"), TryAgain("later")])
def test_the_others_go_on_without_a_worker_whose_gpu_is_broken(
    two: tuple[Crew, list[Any]], heard: Heard, error: JobError, caplog: pytest.LogCaptureFixture
) -> None:
    made, members = two
    made._hear(members[0], News(error=error, has_ended=True))
    assert "cannot continue, and the others go on without it" in caplog.text
    assert heard.count == 2, "what was not saved is detected again"
    with pytest.raises(type(error)):  # of the last worker
        made._hear(members[1], News(error=error, has_ended=True))
    assert numbers_left(made._todo) == [0, 2, 3]


def test_an_error_that_all_would_meet_ends_the_run(two: tuple[Crew, list[Any]]) -> None:
    made, members = two
    with pytest.raises(SettingsError, match="wrong"):
        made._hear(members[0], News(error=SettingsError("wrong"), has_ended=True))


def test_what_several_workers_say_is_said_once(
    two: tuple[Crew, list[Any]], heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    made, members = two
    row = parts.Row("bad.jpg", "", 3, "failed", "broken")
    for member in members:
        made._hear(member, News(failed=[row], lines=[(30, "job.detect", "the same")]))
    assert heard.failures == ["bad.jpg"] and caplog.text.count("the same") == 1


def test_a_finished_piece_is_saved(two: tuple[Crew, list[Any]], heard: Heard) -> None:
    made, members = two
    made._hear(members[0], News(detected=1, written=[0]))
    assert heard.numbers == [0] and members[0].unsaved == 0 and not members[0].pieces


def test_results_of_other_files_are_refused(two: tuple[Crew, list[Any]]) -> None:
    made, _ = two
    other = parts.Provenance("config", "other weights", "fp32", "native", ("car",))
    with pytest.raises(SettingsError, match=r"other results \(different weights.*\): give all machines the same image"):
        made._check_provenance(About("GPU on node-b", "id", 1, other))


def test_no_gpu_for_long_is_75(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = crew._Patience()
    patience.check()
    monkeypatch.setattr(crew, "_SECONDS_WITHOUT_WORKER", -1.0)
    with pytest.raises(TryAgain, match="There has been no GPU for") as raised:
        patience.check()
    assert raised.value.exit_code == 75


def test_news_of_a_finished_piece_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[Piece] = []
    notes = Notes(forgotten.append)
    notes.detected(3)
    notes.written(make_piece(7))
    monkeypatch.setattr("job.engine.ray.worker._SECONDS_OF_LISTENING", 60.0)
    news = notes.fetch()
    assert (news.detected, news.written, [piece.number for piece in forgotten]) == (3, [7], [7])


def test_a_worker_gets_no_token() -> None:
    ours = settings(lightly_token=Secret("a-secret-token"), lightly_dataset="cars")
    assert engine._without_secrets(ours).token is None


def test_a_local_ray_inherits_the_chosen_gpus_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    monkeypatch.setenv("LIGHTLY_TOKEN", "a-secret-token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "to be removed at the end of the test")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with cluster._local_environment(Choice("ray", 2, (0, 2))):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-c"
        assert "LIGHTLY_TOKEN" not in os.environ
        own = os.environ["RAY_AUTH_TOKEN"]
        assert len(own) == 64
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b,GPU-c"
    assert os.environ["LIGHTLY_TOKEN"] == "a-secret-token"
    assert os.environ["RAY_AUTH_TOKEN"] == own
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with cluster._local_environment(Choice("ray", 2, (1, 2))):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2"
        assert os.environ["RAY_AUTH_TOKEN"] == own
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    monkeypatch.setattr(stop, "listen", lambda: None)
    with pytest.raises(ServiceUnavailable, match=r"Cannot use the Ray cluster at 127\.0\.0\.1:1 .*check RAY_ADDRESS"):
        cluster.start(Choice("ray", address="127.0.0.1:1"), stop)


@pytest.mark.parametrize(
    ("error", "is_suspect", "says"),
    [
        (exceptions.OutOfMemoryError("running low on memory"), True, "its machine has too little memory"),
        (exceptions.ActorDiedError(), True, "its process ended"),
        (exceptions.ActorUnavailableError("no answer", None), False, "its machine is gone"),
        (exceptions.NodeDiedError("no machine"), False, "its machine is gone"),
        (exceptions.ObjectLostError("ff", None, ""), False, "its machine is gone"),
    ],
)
def test_a_lost_worker_does_not_end_the_run(
    two: tuple[Crew, list[Any]],
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    is_suspect: bool,
    says: str,
) -> None:
    def get(call: Any) -> Any:
        raise error

    made, members = two
    members[0].about = About("GPU on node-a", "id", 1, MADE_WITH)
    made._calls = {"call": (members[0], "news")}
    monkeypatch.setattr(ray, "wait", lambda calls, **_: (calls, []))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(cluster, "is_alive", lambda node_id: True)
    (piece,) = members[0].pieces.values()
    made._listen(0.0)
    assert f"The worker with GPU on node-a is lost ({says}): 1 piece goes to other workers." in caplog.text
    assert made._members == [members[1]] and heard.count == 2
    assert made._todo and made._todo.is_suspect(piece) == is_suspect
    assert numbers_left(made._todo) == [0, 2, 3]


@pytest.mark.parametrize("error", [exceptions.OutOfMemoryError("low on memory"), exceptions.NodeDiedError("gone")])
def test_another_worker_chooses_the_precision_if_the_first_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    answers: list[Any] = [*[error] * (crew.MAX_FAILED_STARTS - 1), "bf16", *[error] * crew.MAX_FAILED_STARTS]
    worker: Any = SimpleNamespace(agree_on_precision=SimpleNamespace(remote=lambda: None))

    def wait_for(call: Any, stop: Stop) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster, "start", lambda choice, stop: None)
    monkeypatch.setattr(engine, "make_actor", lambda settings, folder: worker)
    monkeypatch.setattr(engine, "wait_for", wait_for)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    on_ray = engine.OnRay(Choice("ray", address="head:6379"))
    ours, output = settings(precision="auto"), LocalFolder(str(tmp_path))
    assert on_ray.agree_on_precision(ours, output, Stop()) == "bf16"
    with pytest.raises(ServiceUnavailable, match="5 workers ended, one after the other, before they had chosen"):
        on_ray.agree_on_precision(ours, output, Stop())
    assert not answers
