"""The job, killed again and again in random states of its run; `make soak` does so on the whole demo pool.

First a run lists its events: what it writes and deletes, and the stages that it enters. Each kill is at one of them,
such as the seventh part, a stage, or a file that is being written. So no kill comes too late on a busy machine, and
each kind of event is met as often as any other, however short it is. `test_kills` has one kill of each kind of file.
"""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import fetch
from job.publish import ROUNDS
from tests.conftest import S3, start_job
from tests.e2e.kills import OTHER, check_between, variables, without_times
from tests.exports.test_paths import tree
from tests.standins.servers import ADMIN, BUCKET, SeaweedFS, client
from tests.standins.warm_job import Kill, WarmJob

# How often `make soak` kills the job or the server, in each of the two stores. A short run has few frames.
_LONG = 20
KILLS = int(os.environ.get("SOAK_KILLS", _LONG))
SETTINGS: tuple[dict[str, Any], dict[str, Any]] = ({}, OTHER)
# Files whose number of writes goes by the clock.
_BY_THE_CLOCK = re.compile(r"status|parts/owner")
_VARYING = re.compile(r"[0-9a-f]{8,}|\d+")

Files = dict[str, bytes]
Events = dict[str, int]  # how many there are of each kind


def count_kinds(events: list[str]) -> Events:
    """Counts events by kind: names of files without their numbers and digests."""
    kinds = Counter(_VARYING.sub("*", event) for event in events)
    return {kind: 1 if _BY_THE_CLOCK.match(kind) else count for kind, count in sorted(kinds.items())}


def make_pattern(kind: str) -> str:
    return f"^{re.escape(kind).replace(re.escape('*'), '[0-9a-f]+')}$"


class Folder:
    """A local folder with the images, and the outputs."""

    ways = ("SIGKILL", "SIGTERM")
    moments = ("before", "middle", "after")

    def __init__(self, folder: Path, frames: list[Path]) -> None:
        self._folder, self._source = folder, folder / "pool"
        self._source.mkdir()
        for frame in frames:
            (self._source / frame.name).symlink_to(frame)

    def variables(self, out: str) -> dict[str, Any]:
        return variables(self._source, self._folder / out, CORAL_PART_SIZE=16)

    def read(self, out: str) -> Files:
        return tree(self._folder / out)

    def kill(self, kill: Kill) -> Kill:
        return kill

    def mend(self) -> None:
        """Nothing to do: only the job is killed."""


class Videos(Folder):
    """A local folder with clips, of which every second frame is an image, beside some of the images."""

    def __init__(self, folder: Path, frames: list[Path]) -> None:
        super().__init__(folder, frames[::50])
        for video in (fetch.VIDEO, fetch.MORE_VIDEOS[0]):
            (self._source / video.name).symlink_to(video)

    def variables(self, out: str) -> dict[str, Any]:
        return super().variables(out) | {"CORAL_FRAMES": "every:2"}


class Bucket:
    """A bucket with the same, on a server of its own, which may be killed."""

    ways = ("SIGKILL", "SIGTERM", "server")
    moments = ("before", "after")

    def __init__(self, folder: Path, frames: list[Path]) -> None:
        self.server = SeaweedFS(folder)
        self.server.start()
        self._client = client(self.server.endpoint)
        for frame in frames:
            self._client.put_object(Bucket=BUCKET, Key=f"pool/{frame.name}", Body=frame.read_bytes())

    def variables(self, out: str) -> dict[str, Any]:
        uri = S3(self.server.endpoint).uri
        ours = ADMIN | {"AWS_ENDPOINT_URL": self.server.endpoint, "CORAL_PART_SIZE": 16}
        return variables(uri("pool"), uri(out), **ours)

    def read(self, out: str) -> Files:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{out}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key.removeprefix(f"{out}/"): self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys
        }

    def kill(self, kill: Kill) -> Kill:
        if kill.name != "server":
            return kill
        return Kill(kill.key, kill.moment, kill.count, "SIGKILL", self.server.process_id)

    def mend(self) -> None:
        """Starts the server again."""
        self.server.kill()
        self.server.start()


class Pool:
    """A pool in a store, and what undisturbed runs with two settings make of it.

    Attributes:
        expected: The files of each, without times.
        events: Those of the first run on an empty output, and of a selection with each settings over the results of the
            other.
    """

    def __init__(self, warm: WarmJob, place: Folder | Bucket) -> None:
        self.warm, self.place = warm, place
        events = [self._run("undisturbed", "run", 0)]
        first = without_times(self._read("undisturbed"))
        events.append(self._run("undisturbed", "select", 1))
        second = without_times(self._read("undisturbed"))
        events.append(self._run("undisturbed", "select", 0))
        assert without_times(self._read("undisturbed")) == first
        self.expected = first, second
        self.events = {"run": count_kinds(events[0]), 1: count_kinds(events[1]), 0: count_kinds(events[2])}

    def _run(self, out: str, command: str, which: int) -> list[str]:
        ended = self.warm.run(command, **self.place.variables(out) | SETTINGS[which])
        assert ended.code == 0, ended.text
        return ended.events

    def _read(self, out: str) -> Files:
        """All files but what is left of earlier rounds, which depends on how many there were; these must be whole."""
        files = self.place.read(out)
        earlier = {path: data for path, data in files.items() if path.startswith(ROUNDS) and not path.endswith(".tmp")}
        assert all(json.loads(data)["picks"] for data in earlier.values())
        return {path: data for path, data in files.items() if path not in earlier}

    def disturb(self, rounds: int, seed: int) -> None:
        """Kills and finishes runs, and compares what they leave in between and in the end."""
        rng = random.Random(seed)  # no secret
        out, present, has_all_parts = "", 0, False
        for number in range(rounds):
            way = self.place.ways[number % len(self.place.ways)]
            is_new = not out or rng.random() < 0.4
            if is_new:
                out, present, has_all_parts = f"out-{number}", 1, True
            command, before = "run" if is_new else "select", {} if is_new else self.expected[present]
            which = 1 - present
            kinds = self.events["run" if is_new else which]
            kind = rng.choice(list(kinds))
            moment = "before" if kind.startswith("stage") else rng.choice(self.place.moments)
            kill = Kill(make_pattern(kind), moment, rng.randint(1, kinds[kind]), way)
            told = f"{command}: {way} {moment} number {kill.count} of {kind}"
            print(told, flush=True)
            given = self.place.variables(out) | SETTINGS[which]
            ended = self.warm.run(command, kill=self.place.kill(kill), mend=self.place.mend, **given)
            assert ended.killed, f"{told}: {ended.text}"
            # A run that is asked to stop in its last stage, or whose store comes back, comes to its end.
            assert ended.code in {"SIGKILL": (-9,), "SIGTERM": (143, 0), "server": (0,)}[way], f"{told}: {ended.text}"
            check_between(self._read(out), before, self.expected[which])
            # A stop also saves the part that it interrupts, so parts are cut elsewhere.
            has_all_parts &= way != "SIGTERM" or not is_new
            self._run(out, command, which)
            found = without_times(self._read(out))
            expected = self.expected[which]
            if not has_all_parts:
                found, expected = (
                    {path: data for path, data in files.items() if not path.startswith("parts/part-")}
                    for files in (found, expected)
                )
            different = [path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)]
            assert different == [], told
            present = which


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmJob]:
    with WarmJob(tmp_path_factory.mktemp("texts")) as job:
        yield job


def make_places(folder: Path, frames: list[Path], kind: str) -> Iterator[Folder | Bucket]:
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, type[Folder] | type[Bucket]] = {"folder": Folder, "bucket": Bucket, "videos": Videos}
    place = places[kind](folder, frames)
    yield place
    if isinstance(place, Bucket):
        place.server.kill()


@pytest.fixture
def few(frames: list[Path], tmp_path: Path) -> Iterator[Folder | Bucket]:
    yield from make_places(tmp_path / "store", frames[::10], "bucket")


def test_the_job_and_its_server_are_killed(warm: WarmJob, few: Bucket) -> None:
    Pool(warm, few).disturb(rounds=3, seed=1)


# A short run has no time for the frames of videos, whose kills are like those of images.
@pytest.fixture(scope="module", params=["folder", "bucket", *(["videos"] if KILLS >= _LONG else [])])
def whole(
    frames: list[Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Folder | Bucket]:
    some = frames if KILLS >= _LONG else frames[::5]
    yield from make_places(tmp_path_factory.mktemp("store"), some, request.param)


@pytest.mark.soak
def test_the_whole_pool_killed_many_times(warm: WarmJob, whole: Folder | Bucket) -> None:
    Pool(warm, whole).disturb(KILLS, seed=0)


@pytest.mark.soak
def test_the_whole_pool_in_shards(whole: Folder | Bucket) -> None:
    results = {}
    for count in (1, 3, 7):
        given = whole.variables(f"shards-{count}") | {"CORAL_SHARD_COUNT": count}
        for process in [start_job(**given, CORAL_SHARD_INDEX=index) for index in range(count)]:
            text, _ = process.communicate(timeout=600)
            assert process.returncode == 0, text
        found = without_times(whole.read(f"shards-{count}"))
        results[count] = {path: data for path, data in found.items() if not path.startswith(("parts/", "status-"))}
    assert results[1] == results[3] == results[7]
