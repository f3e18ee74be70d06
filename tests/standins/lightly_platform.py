"""The data of the stand-in for the Lightly platform, and its calls.

It adds the rules that the client's models do not express: names must be new, masks and scores must have the right
length, and embeddings must follow the server's own order.
"""

import csv
import io
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LONGEST_PAGE = 25_000
LONGEST_NAME = 255

Answer = tuple[int, Any]
Query = dict[str, str]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, error: str = "") -> None:
        self.status, self.code, self.error = status, code, error or code
        super().__init__(f"{status} {code} {error}")


@dataclass
class Sample:
    """One sample."""

    id: str
    body: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    predictions: list[dict[str, Any]] | None = None


@dataclass
class Embedding:
    """The embeddings under one name."""

    id: str
    name: str
    created: int
    data: bytes | None = None
    processed: bool = False
    polls: int = 0
    maps: list[str] = field(default_factory=list)


@dataclass
class Dataset:
    """One dataset; `samples` is in the server's own order."""

    id: str
    name: str
    created: int
    samples: list[Sample] = field(default_factory=list)
    tags: list[dict[str, Any]] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    tasks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    score_ids: dict[str, tuple[str, str]] = field(default_factory=dict)
    datasources: dict[str, dict[str, Any]] = field(default_factory=dict)
    image_type: str | None = None

    def sample(self, sample_id: str) -> Sample:
        for each in self.samples:
            if each.id == sample_id:
                return each
        raise Refusal(404, "SAMPLE_UNKNOWN")

    def tag(self, tag_id: str) -> dict[str, Any]:
        for each in self.tags:
            if each["id"] == tag_id:
                return each
        raise Refusal(404, "TAG_UNKNOWN")

    def names(self) -> list[str]:
        return [each.body["fileName"] for each in self.samples]

    def in_tag(self, tag: dict[str, Any]) -> list[str]:
        mask = int(tag["bitMaskData"], 16)
        return [name for number, name in enumerate(self.names()) if mask >> number & 1]

    def vectors(self, embedding: Embedding) -> dict[str, np.ndarray[Any, Any]]:
        rows = list(csv.reader(io.StringIO((embedding.data or b"").decode(), newline="")))
        return {name: np.array(values, np.float32) for name, *values, _ in rows[1:]}


def _id() -> str:
    return secrets.token_hex(12)


def _now() -> int:
    return time.time_ns() // 1_000_000


class Platform:
    """All datasets, and the calls. A call takes the query, the body and the names in the path, and returns an answer.

    Args:
        quota: Maximum number of samples of a dataset.
        selects: Whether the deprecated selection still exists.
    """

    url = ""

    def __init__(self, *, quota: int = 100_000, selects: bool = True) -> None:
        self.quota, self.selects = quota, selects
        self.datasets: dict[str, Dataset] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.polls_until_done = 2
        self.polls_until_read = 2
        self._signed: dict[str, tuple[str, str, str]] = {}
        self._random = random.Random(0)

    def dataset(self, name: str) -> Dataset:
        """Returns the dataset of a name."""
        (found,) = [each for each in self.datasets.values() if each.name == name]
        return found

    def add_dataset(self, name: str, file_names: tuple[str, ...] = ()) -> Dataset:
        """Creates a dataset as another user."""
        made = Dataset(_id(), name, _now())
        for each in file_names:
            made.samples.append(Sample(_id(), {"fileName": each}))
        if file_names:
            made.tags.append(self._tag(made, "initial-tag", None, hex((1 << len(file_names)) - 1)))
        self.datasets[made.id] = made
        return made

    def _tag(self, dataset: Dataset, name: str, previous: str | None, mask: str) -> dict[str, Any]:
        size = len(dataset.samples)
        return {
            "id": _id(), "datasetId": dataset.id, "prevTagId": previous, "name": name, "bitMaskData": mask,
            "totSize": size, "createdAt": _now(), "changes": [],
        }  # fmt: skip

    def minimum_version(self, query: Query, body: Any) -> Answer:
        return 200, "1.2.1"

    def get_quota(self, query: Query, body: Any) -> Answer:
        return 200, str(self.quota)

    def get_dataset(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        return 200, self._data(dataset)

    def find_datasets(self, query: Query, body: Any, name: str) -> Answer:
        own = query.get("shared") == "False" and "getAssetsOfTeam" not in query
        found = [self._data(each) for each in self.datasets.values() if own and each.name == name]
        return 200, self._page(found, query, 5000)

    def create_dataset(self, query: Query, body: Any) -> Answer:
        if any(each.name == body["name"] for each in self.datasets.values()):
            raise Refusal(409, "DATASET_NAME_EXISTS")
        made = self.add_dataset(body["name"])
        return 201, {"id": made.id}

    def register_upload(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        return 200, None

    def list_samples(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if query.get("mode") != "fileNames":
            raise Refusal(400, "BAD_REQUEST", "mode")
        wanted = query.get("fileName")
        found = [{"id": each.id, "fileName": each.body["fileName"]} for each in dataset.samples]
        # The documentation does not say whether the filter is exact. It is a prefix here, so that clients must check.
        found = [each for each in found if wanted is None or each["fileName"].startswith(wanted)]
        return 200, self._page(found[::-1], query, LONGEST_PAGE)  # not the order of the mappings

    def list_mappings(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if query.get("field") != "fileName":
            raise Refusal(400, "BAD_REQUEST", "field")
        return 200, self._page(dataset.names(), query, LONGEST_PAGE)

    def create_sample(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        return 201, {"id": self._add_sample(dataset, body).id}

    def create_sample_with_urls(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        made = self._add_sample(dataset, body)
        return 201, {"id": made.id, "sampleWriteUrls": self._urls(dataset, made)}

    def _add_sample(self, dataset: Dataset, body: dict[str, Any]) -> Sample:
        if not 0 < len(body["fileName"]) <= LONGEST_NAME or "\n" in body["fileName"]:
            raise Refusal(400, "SAMPLE_CREATE_REQUEST_INVALID_FORMAT", "file name")
        if len(dataset.samples) >= self.quota:
            raise Refusal(403, "DATASET_AT_MAX_CAPACITY")
        made = Sample(_id(), body)
        # The server has an order of its own, which a tag fixes for the samples it covers.
        fixed = max((tag["totSize"] for tag in dataset.tags), default=0)
        dataset.samples.insert(self._random.randint(fixed, len(dataset.samples)), made)
        return made

    def get_write_urls(self, query: Query, body: Any, dataset: Dataset, sample: str) -> Answer:
        return 200, self._urls(dataset, dataset.sample(sample))

    def _urls(self, dataset: Dataset, sample: Sample) -> dict[str, str]:
        kinds = {"full": "full", "thumb": "thumb"}
        return {name: self._sign(dataset.id, sample.id, kind) for name, kind in kinds.items()}

    def _sign(self, *place: str) -> str:
        signature = secrets.token_urlsafe(16)
        self._signed[signature] = (place[0], place[1], place[2])
        return f"{self.url}/files/{place[1]}/{place[2]}?X-Amz-Signature={signature}"

    def put_file(self, query: Query, body: bytes, owner: str, kind: str) -> Answer:
        dataset_id, *place = self._signed.get(query.get("X-Amz-Signature", ""), ("", "", ""))
        if place != [owner, kind] or not body:
            raise Refusal(403, "FORBIDDEN", "signature")
        dataset = self.datasets[dataset_id]
        if kind == "csv":
            (embedding,) = [each for each in dataset.embeddings if each.id == owner]
            embedding.data = body
        else:
            dataset.sample(owner).files[kind] = body
        return 200, None

    def get_file(self, query: Query, body: Any, owner: str, kind: str) -> Answer:
        dataset_id, *place = self._signed.get(query.get("X-Amz-Signature", ""), ("", "", ""))
        if place != [owner, kind]:
            raise Refusal(403, "FORBIDDEN", "signature")
        (embedding,) = [each for each in self.datasets[dataset_id].embeddings if each.id == owner]
        if embedding.data is None:
            raise Refusal(404, "NOT_FOUND")
        return 200, embedding.data

    def list_tags(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        self._advance()
        return 200, dataset.tags

    def get_tag(self, query: Query, body: Any, dataset: Dataset, tag: str) -> Answer:
        return 200, dataset.tag(tag)

    def create_initial_tag(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if dataset.tags:
            raise Refusal(400, "TAG_INITIAL_EXISTS")
        if not dataset.samples:
            raise Refusal(400, "BAD_REQUEST", "no samples")
        dataset.image_type = body["imgType"]
        dataset.tags.append(self._tag(dataset, "initial-tag", None, hex((1 << len(dataset.samples)) - 1)))
        return 201, {"id": dataset.tags[-1]["id"]}

    def enlarge_tags(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if not dataset.tags:
            raise Refusal(400, "TAG_NO_TAG_IN_DATASET")
        self._new_tag_name(dataset, body["upsizeTagName"])
        before = max(each["totSize"] for each in dataset.tags)
        for each in dataset.tags:
            each["totSize"] = len(dataset.samples)
        mask = ((1 << len(dataset.samples)) - 1) ^ ((1 << before) - 1)
        dataset.tags.append(self._tag(dataset, body["upsizeTagName"], None, hex(mask)))
        return 201, {"id": dataset.tags[-1]["id"]}

    def create_tag(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        self._new_tag_name(dataset, body["name"])
        parent = int(dataset.tag(body["prevTagId"])["bitMaskData"], 16)
        mask, size = int(body["bitMaskData"], 16), len(dataset.samples)
        if body["totSize"] != size or not 0 < mask < 1 << size or any(tag["totSize"] != size for tag in dataset.tags):
            raise Refusal(400, "DATASET_TAG_INVALID", f"{body['totSize']} of {size}")
        if any(mask & int(tag["bitMaskData"], 16) == mask for tag in dataset.tags) and parent & mask != mask:
            raise Refusal(400, "TAG_PREVTAG_NOT_IN_DATASET", "the parent is no superset")
        dataset.tags.append(self._tag(dataset, body["name"], body["prevTagId"], body["bitMaskData"]))
        return 201, {"id": dataset.tags[-1]["id"]}

    def _new_tag_name(self, dataset: Dataset, name: str) -> None:
        if any(each["name"] == name for each in dataset.tags):
            raise Refusal(400, "TAG_NAME_EXISTS")

    def _read(self, embedding: Embedding) -> bool:
        """Returns whether the platform has read embeddings, which takes some polls after their jobs have begun."""
        if embedding.maps and not embedding.processed:
            embedding.polls += 1
            embedding.processed = embedding.polls > self.polls_until_read
        return embedding.processed

    def list_embeddings(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        return 200, [
            {"id": each.id, "name": each.name, "isProcessed": self._read(each), "createdAt": each.created}
            for each in reversed(dataset.embeddings)
        ]

    def create_embedding(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if any(each.name == query["name"] for each in dataset.embeddings):
            raise Refusal(400, "EMBEDDING_NAME_EXISTS")
        made = Embedding(_id(), query["name"], _now())
        dataset.embeddings.append(made)
        return 200, {"signedWriteUrl": self._sign(dataset.id, made.id, "csv"), "embeddingId": made.id}

    def embedding_read_url(self, query: Query, body: Any, dataset: Dataset, embedding: str) -> Answer:
        return 200, self._sign(dataset.id, self._embedding(dataset, embedding).id, "csv")

    def delete_embedding(self, query: Query, body: Any, dataset: Dataset, embedding: str) -> Answer:
        dataset.embeddings.remove(self._embedding(dataset, embedding))
        return 200, None

    def _embedding(self, dataset: Dataset, embedding_id: str) -> Embedding:
        for each in dataset.embeddings:
            if each.id == embedding_id:
                return each
        raise Refusal(404, "EMBEDDING_UNKNOWN")

    def map_embedding(self, query: Query, body: Any, dataset: Dataset, embedding: str) -> Answer:
        found = self._embedding(dataset, embedding)
        rows = list(csv.reader(io.StringIO((found.data or b"").decode(), newline="")))
        header, names = (rows[0], [row[0] for row in rows[1:]]) if rows else ([], [])
        if header[:1] != ["filenames"] or header[-1:] != ["labels"] or names != dataset.names():
            raise Refusal(400, "EMBEDDING_INVALID", "rows do not follow the samples")
        if header[1:-1] != [f"embedding_{number}" for number in range(len(header) - 2)]:
            raise Refusal(400, "EMBEDDING_INVALID", "header")
        for row in rows[1:]:
            if not np.isfinite(np.array(row[1:-1], float)).all() or len(row) != len(header):
                raise Refusal(400, "EMBEDDING_INVALID", "values")
        found.maps.append(body["dimensionalityReductionMethod"])
        return 200, None

    def set_task(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        ids = [each["id"] for each in body["categories"]]
        if len(set(ids)) != len(ids) or not ids:
            raise Refusal(400, "PREDICTION_TASK_SCHEMA_CATEGORIES_NOT_UNIQUE")
        dataset.tasks[body["name"]] = body["categories"]
        return 201, {"id": _id()}

    def set_predictions(self, query: Query, body: Any, dataset: Dataset, sample: str) -> Answer:
        found = dataset.sample(sample)
        for each in body:
            if each["taskName"] not in dataset.tasks:
                raise Refusal(400, "PREDICTION_TASK_SCHEMA_UNKNOWN")
            ids = [category["id"] for category in dataset.tasks[each["taskName"]]]
            fits = each["categoryId"] in ids and len(each["probabilities"]) == len(ids)
            if not fits or abs(sum(each["probabilities"]) - 1) > 1e-9:
                raise Refusal(400, "BAD_REQUEST", "probabilities")
        tasks = {each["taskName"] for each in body}
        found.predictions = [each for each in found.predictions or [] if each["taskName"] not in tasks] + body
        return 201, {"id": _id()}

    def list_scores(self, query: Query, body: Any, dataset: Dataset, tag: str) -> Answer:
        dataset.tag(tag)
        return 200, [
            {"id": score, "tagId": tag, "scoreType": kind, "createdAt": 1}
            for score, (of_tag, kind) in dataset.score_ids.items()
            if of_tag == tag
        ]

    def get_scores(self, query: Query, body: Any, dataset: Dataset, tag: str, score: str) -> Answer:
        of_tag, kind = dataset.score_ids[score]
        values = dataset.scores[of_tag][kind]
        return 200, {"id": score, "tagId": tag, "scoreType": kind, "scores": values, "createdAt": 1}

    def set_scores(self, query: Query, body: Any, dataset: Dataset, tag: str) -> Answer:
        if len(body["scores"]) != len(dataset.in_tag(dataset.tag(tag))):
            raise Refusal(400, "SCORES_CANNOT_BE_SET", f"{len(body['scores'])} scores")
        dataset.scores.setdefault(tag, {})[body["scoreType"]] = body["scores"]
        ids = {place: score for score, place in dataset.score_ids.items()}
        score = ids.get((tag, body["scoreType"])) or _id()
        dataset.score_ids[score] = (tag, body["scoreType"])
        return 201, {"id": score}

    def list_datasources(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        if not dataset.datasources:
            raise Refusal(404, "DATASET_DATASOURCE_UNKNOWN")
        return 200, list(dataset.datasources.values())

    def set_datasource(self, query: Query, body: Any, dataset: Dataset) -> Answer:
        dataset.datasources[body["purpose"]] = body
        return 200, None

    def select(self, query: Query, body: Any, dataset: Dataset, embedding: str) -> Answer:
        if not self.selects:
            raise Refusal(410, "NOT_IMPLEMENTED", "selection is gone")
        self._new_tag_name(dataset, body["newTagName"])
        if not self._embedding(dataset, embedding).processed:
            raise Refusal(400, "EMBEDDING_NOT_READY")
        if body["rowCount"] != len(dataset.samples):
            raise Refusal(400, "EMBEDDING_ROW_COUNT_INVALID")
        pool = dataset.tag(body["queryTagId"])
        scores = dataset.scores.get(pool["id"], {}).get(body["scoreType"])
        if scores is None:
            raise Refusal(400, "TAG_NO_SCORES_AVAILABLE")
        before = dataset.in_tag(dataset.tag(body["preselectedTagId"])) if "preselectedTagId" in body else []
        # Any selection that differs from the job's own: the lowest scores.
        ranked = sorted(zip(scores, dataset.in_tag(pool), strict=True))
        fresh = [name for _, name in ranked if name not in before]
        count = int(body["config"]["stoppingCondition"]["nSamples"]) - len(before)
        picked = {*before, *fresh[:count]}
        mask = sum(1 << number for number, name in enumerate(dataset.names()) if name in picked)
        job = {
            "id": _id(),
            "polls": 0,
            "state": "RUNNING",
            "dataset": dataset,
            "name": body["newTagName"],
            "mask": hex(mask),
        }
        self.jobs[job["id"]] = job
        return 200, {"jobId": job["id"]}

    def get_job(self, query: Query, body: Any, job: str) -> Answer:
        if job not in self.jobs:
            raise Refusal(404, "JOB_UNKNOWN")
        self._advance()
        found = self.jobs[job]
        content = {"id": job, "waitTimeTillNextPoll": 0, "createdAt": 1, "status": found["state"]}
        if "tag" in found:
            content["result"] = {"type": "SAMPLING", "data": found["tag"]}
        return 200, content

    def _advance(self) -> None:
        """Brings all jobs closer to their ends, on every request."""
        for job in self.jobs.values():
            job["polls"] += 1
            if job["state"] not in ("WAITING", "RUNNING") or job["polls"] <= self.polls_until_done:
                continue
            dataset = job["dataset"]
            job["state"] = "FAILED" if any(tag["name"] == job["name"] for tag in dataset.tags) else "FINISHED"
            if job["state"] == "FINISHED":
                dataset.tags.append(self._tag(dataset, job["name"], dataset.tags[0]["id"], job["mask"]))
                job["tag"] = dataset.tags[-1]["id"]

    def _data(self, dataset: Dataset) -> dict[str, Any]:
        return {
            "id": dataset.id, "name": dataset.name, "userId": "someone", "type": "Images", "sizeInBytes": 0,
            "nSamples": len(dataset.samples), "createdAt": dataset.created, "lastModifiedAt": dataset.created,
        }  # fmt: skip

    def _page(self, rows: list[Any], query: Query, longest: int) -> list[Any]:
        size, start = int(query.get("pageSize", longest)), int(query.get("pageOffset", 0))
        if not 1 <= size <= longest:
            raise Refusal(400, "BAD_REQUEST", "pageSize")
        return rows[start : start + size]
