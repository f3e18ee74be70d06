"""The calls to the Lightly platform that the job makes.

A call that makes something may have been carried out though its answer was lost. Before such a call is tried again, the
platform is asked whether the thing is there.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly.api import utils as lightly_utils
from lightly.openapi_generated.swagger_client import api as endpoints
from lightly.openapi_generated.swagger_client import models
from lightly.openapi_generated.swagger_client.exceptions import ApiException

from job.lightly.transport import TIMEOUT, Refused, Transport
from job.retry import Attempt

_PAGE = 25_000
# Versions of predictions are "currently ignored", says the API, but must be given and must not be negative.
_VERSION = 1


@dataclass(frozen=True)
class Dataset:
    """A dataset of the platform."""

    id: str
    name: str


@dataclass(frozen=True)
class Tag:
    """A set of samples.

    Attributes:
        id: Its id.
        name: Its name.
        mask: Which samples are in it, as `job.lightly.masks` writes it.
        size: Samples that the dataset had when it was made, or last enlarged.
    """

    id: str
    name: str
    mask: str
    size: int


@dataclass(frozen=True)
class WriteUrls:
    """Where the files of a sample go."""

    full: str
    thumbnail: str


@dataclass(frozen=True)
class Embedding:
    """The embeddings of a dataset under one name."""

    id: str
    name: str
    is_processed: bool


@dataclass(frozen=True)
class Task:
    """Something that the platform does in its own time.

    Attributes:
        id: Its id.
        state: WAITING, RUNNING, FINISHED, FAILED or UNKNOWN.
        wait: Seconds until it should be asked for again.
        error: Why it failed.
        result: What came out.
    """

    id: str
    state: str
    wait: float
    error: str
    result: Any


class Platform:
    """The platform, as one user sees it.

    Args:
        transport: How it is called.

    Attributes:
        server: Its address.
    """

    def __init__(self, transport: Transport) -> None:
        self.server = transport.server
        self._transport = transport
        self._call, self._pages = transport.call, transport.pages
        client = transport.client.api_client
        self._datasets = endpoints.DatasetsApi(client)
        self._datasources = endpoints.DatasourcesApi(client)
        self._embeddings = endpoints.EmbeddingsApi(client)
        self._jobs = endpoints.JobsApi(client)
        self._mappings = endpoints.MappingsApi(client)
        self._predictions = endpoints.PredictionsApi(client)
        self._quota = endpoints.QuotaApi(client)
        self._samples = endpoints.SamplesApi(client)
        self._samplings = endpoints.SamplingsApi(client)
        self._scores = endpoints.ScoresApi(client)
        self._tags = endpoints.TagsApi(client)

    # Datasets

    def dataset(self, dataset_id: str) -> Dataset | None:
        """A dataset by its id; None if there is none."""
        try:
            found = self._call("find the dataset", lambda _: self._datasets.get_dataset_by_id(dataset_id))
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return Dataset(found.id, found.name)

    def dataset_of_name(self, name: str) -> Dataset | None:
        """A dataset by its name: the user's own, or else the team's; None if there is none.

        One that somebody else shares is found by its id alone, lest images go there by a coincidence of names.
        """
        for whose in ({"shared": False}, {"get_assets_of_team": True}):
            if found := self._find_dataset(name, **whose):
                return found
        return None

    def _find_dataset(self, name: str, **whose: bool) -> Dataset | None:
        pages = self._pages(
            "find the dataset", self._datasets.get_datasets_query_by_name, 5000, name, exact=True, **whose
        )
        return next((Dataset(each.id, each.name) for each in pages if each.name == name), None)

    def create_dataset(self, name: str) -> Dataset:
        """Makes a dataset of images."""
        body = models.DatasetCreateRequest(
            name=name, type=models.DatasetType.IMAGES, creator=models.DatasetCreator.USER_PIP
        )

        def create(attempt: Attempt) -> Dataset:
            if attempt.number > 1 and (found := self._find_dataset(name, shared=False)):
                return found
            return Dataset(self._datasets.create_dataset(body).id, name)

        return self._call("make a dataset", create)

    def quota(self) -> int:
        """How many samples a dataset of this user may have."""
        return int(self._call("tell the quota", lambda _: self._quota.get_quota_maximum_dataset_size()))

    def register_upload(self, dataset: Dataset, total: int, processed: int) -> None:
        """Announces an upload."""
        body = models.JobStatusMeta(
            total=total, processed=processed, upload_method=models.JobStatusUploadMethod.USER_PIP, is_registered=True
        )
        self._call("register the upload", lambda _: self._datasets.register_dataset_upload_by_id(dataset.id, body))

    def datasources(self, dataset: Dataset) -> dict[str, str]:
        """The places that the platform reads files from, by purpose."""
        get = self._datasources.get_datasources_by_dataset_id
        try:
            found = self._call("list datasources", lambda _: get(dataset.id))
        except Refused as error:
            if error.status == 404:
                return {}
            raise
        configs = [each.actual_instance for each in found]
        return {str(each.purpose): each.full_path for each in configs if hasattr(each, "full_path")}

    def set_datasource(self, dataset: Dataset, config: dict[str, Any]) -> None:
        """Sets the place that the platform reads files from; `config` as the API names its fields."""
        body = models.DatasourceConfig.from_dict(config)
        self._call("set the datasource", lambda _: self._datasources.update_datasource_by_dataset_id(dataset.id, body))

    # Samples

    def samples(self, dataset: Dataset) -> dict[str, str]:
        """The ids of all samples by file name."""
        mode = models.SamplePartialMode.FILENAMES
        pages = self._pages(
            "list samples", self._samples.get_samples_partial_by_dataset_id, _PAGE, dataset.id, mode=mode
        )
        return {each.file_name: each.id for each in pages}

    def file_names(self, dataset: Dataset) -> list[str]:
        """The file names of all samples in the platform's own order, which scores, masks and embeddings follow."""
        get = self._mappings.get_sample_mappings_by_dataset_id
        return list(self._pages("list samples", get, _PAGE, dataset.id, field="fileName"))

    def create_sample(
        self, dataset: Dataset, file_name: str, thumbnail_name: str | None, meta_data: dict[str, Any]
    ) -> tuple[str, WriteUrls | None]:
        """Registers an image.

        Args:
            dataset: Where.
            file_name: Its name.
            thumbnail_name: Name of its thumbnail; None when no file is uploaded.
            meta_data: What is known of the file, as the API names its fields.

        Returns:
            The sample's id, and where its files go; None for the latter when there are none, or it was there already.
        """
        path = f"/v1/datasets/{dataset.id}/samples"
        body = {"fileName": file_name, "exif": {}, "metaData": meta_data}

        def create(attempt: Attempt) -> tuple[str, WriteUrls | None]:
            if attempt.number > 1 and (found := self._find_sample(dataset, file_name)):
                return found, None
            if thumbnail_name is None:
                return self._post(path, body, "CreateEntityResponse").id, None
            with_thumbnail = body | {"thumbName": thumbnail_name}
            made = self._post(f"{path}/withWriteUrls", with_thumbnail, "CreateSampleWithWriteUrlsResponse")
            return made.id, WriteUrls(made.sample_write_urls.full, made.sample_write_urls.thumb)

        return self._call("add a sample", create)

    def _find_sample(self, dataset: Dataset, file_name: str) -> str | None:
        mode = models.SamplePartialMode.FILENAMES
        found = self._samples.get_samples_partial_by_dataset_id(
            dataset.id, mode=mode, file_name=file_name, page_size=_PAGE, page_offset=0
        )
        return next((each.id for each in found if each.file_name == file_name), None)

    def write_urls(self, dataset: Dataset, sample: str) -> WriteUrls:
        """Where the files of a sample go."""
        get = self._samples.get_sample_image_write_urls_by_id
        urls = self._call("tell where files go", lambda _: get(dataset.id, sample))
        return WriteUrls(urls.full, urls.thumb)

    def put(self, url: str, content: bytes | Path) -> None:
        """Uploads a file, given by its content or its place, to a signed address."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        headers = {}
        if lightly_utils.get_signed_url_destination(url) == lightly_utils.DatasourceType.AZURE:
            headers = lightly_utils.build_azure_signed_url_write_headers(str(size))
        upload = self._transport.client.upload_file_with_signed_url

        def put(attempt: Attempt) -> None:
            attempt.expect(size)
            # Each attempt reads for itself: one that took too long may still be reading.
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                upload(file, url, headers=headers, session=self._transport.files)

        self._call("take a file", put)

    # Predictions and scores

    def set_prediction_task(self, dataset: Dataset, name: str, categories: list[dict[str, Any]]) -> None:
        """Makes an object detection task, or updates it."""
        body = models.PredictionTaskSchema.from_dict(
            {"name": name, "type": "OBJECT_DETECTION", "categories": categories}
        )
        create = self._predictions.create_or_update_prediction_task_schema_by_dataset_id
        self._call("take the prediction task", lambda _: create(dataset.id, body, prediction_uuid_timestamp=_VERSION))

    def set_predictions(self, dataset: Dataset, sample: str, predictions: list[dict[str, Any]]) -> None:
        """Sets the predictions on a sample, as the API names their fields.

        The client would check each number by itself, which takes 60 ms for 100 boxes of 80 classes.
        """
        path = f"/v1/datasets/{dataset.id}/predictions/samples/{sample}"
        query = [("predictionUUIDTimestamp", _VERSION)]
        self._call("take predictions", lambda _: self._post(path, predictions, "CreateEntityResponse", query))

    def _post(self, path: str, body: Any, answer: str, query: Sequence[tuple[str, Any]] = ()) -> Any:
        """Posts a body as it is: for the calls that are made for every image, and whose checks cost the most time."""
        return self._transport.client.api_client.call_api(
            path,
            "POST",
            query_params=list(query),  # the client adds the token to it
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["ApiKeyAuth"],
            response_types_map={"201": answer},
            _return_http_data_only=True,
        )

    def scores(self, dataset: Dataset, tag: Tag) -> dict[str, list[float]]:
        """The active-learning scores of a tag by their type, in the order of its samples."""
        kinds = self._call(
            "list scores", lambda _: self._scores.get_active_learning_scores_by_tag_id(dataset.id, tag.id)
        )

        def get(score: str) -> list[float]:
            one = self._scores.get_active_learning_score_by_score_id
            found: list[float] = self._call("tell scores", lambda _: one(dataset.id, tag.id, score)).scores
            return found

        return {each.score_type: get(each.id) for each in kinds}

    def set_scores(self, dataset: Dataset, tag: Tag, kind: str, scores: list[float]) -> None:
        """Sets one kind of active-learning scores of a tag, in the order of its samples."""
        body = models.ActiveLearningScoreCreateRequest(score_type=kind, scores=scores)
        create = self._scores.create_or_update_active_learning_score_by_tag_id
        self._call("take scores", lambda _: create(dataset.id, tag.id, body))

    # Tags

    def tags(self, dataset: Dataset) -> list[Tag]:
        """All tags."""
        return self._call("list tags", lambda _: self._list_tags(dataset))

    def _list_tags(self, dataset: Dataset) -> list[Tag]:
        found = self._tags.get_tags_by_dataset_id(dataset.id)
        return [Tag(each.id, each.name, each.bit_mask_data, each.tot_size) for each in found]

    def create_initial_tag(self, dataset: Dataset, image_type: str) -> None:
        """Makes the tag of all samples, which a new dataset lacks; `image_type` is full, thumbnail or meta."""
        body = models.InitialTagCreateRequest(img_type=models.ImageType(image_type), creator=models.TagCreator.USER_PIP)

        def create(attempt: Attempt) -> None:
            if attempt.number == 1 or not self._list_tags(dataset):
                self._tags.create_initial_tag_by_dataset_id(dataset.id, body)

        self._call("make the initial tag", create)

    def enlarge_tags(self, dataset: Dataset, name: str) -> None:
        """Lets all tags know of samples that were added since; these get a tag of the given name."""
        body = models.TagUpsizeRequest(upsize_tag_name=name, upsize_tag_creator=models.TagCreator.USER_PIP)

        def enlarge(attempt: Attempt) -> None:
            if attempt.number == 1 or all(each.name != name for each in self._list_tags(dataset)):
                self._tags.upsize_tags_by_dataset_id(dataset.id, body)

        self._call("enlarge the tags", enlarge)

    def create_tag(self, dataset: Dataset, name: str, mask: str, size: int, parent: Tag) -> Tag:
        """Makes a tag."""
        body = models.TagCreateRequest(
            name=name,
            prev_tag_id=parent.id,
            bit_mask_data=mask,
            tot_size=size,
            creator=models.TagCreator.USER_PIP,
        )

        def create(attempt: Attempt) -> Tag:
            if attempt.number > 1:
                for each in self._list_tags(dataset):
                    if each.name == name:
                        return each
            return Tag(self._tags.create_tag_by_dataset_id(dataset.id, body).id, name, mask, size)

        return self._call("make a tag", create)

    # Embeddings

    def embeddings(self, dataset: Dataset) -> list[Embedding]:
        """All embeddings, newest first."""
        found = self._call("list embeddings", lambda _: self._embeddings.get_embeddings_by_dataset_id(dataset.id))
        found = sorted(found, key=lambda each: each.created_at, reverse=True)
        return [Embedding(each.id, each.name, each.is_processed) for each in found]

    def read_embedding(self, dataset: Dataset, embedding: Embedding) -> bytes:
        """The CSV file of embeddings."""
        get = self._embeddings.get_embeddings_csv_read_url_by_id
        url = self._call("tell where embeddings are", lambda _: get(dataset.id, embedding.id))

        def read(attempt: Attempt) -> bytes:
            with self._transport.files.get(url, timeout=TIMEOUT, stream=True) as answer:
                answer.raise_for_status()
                attempt.expect(int(answer.headers.get("Content-Length", 0)))
                return answer.content

        return self._call("give embeddings", read)

    def create_embedding(self, dataset: Dataset, name: str) -> tuple[str, str]:
        """Makes embeddings of a name that is not there; returns their id, and where their CSV file goes."""

        def create(attempt: Attempt) -> tuple[str, str]:
            if attempt.number > 1:
                for each in self._embeddings.get_embeddings_by_dataset_id(dataset.id):
                    if each.name == name:
                        self._embeddings.delete_embedding_by_id(dataset.id, each.id)
            made = self._embeddings.get_embeddings_csv_write_url_by_id(dataset.id, name=name)
            return made.embedding_id, made.signed_write_url

        return self._call("take embeddings", create)

    def delete_embedding(self, dataset: Dataset, embedding: Embedding) -> None:
        """Removes embeddings."""

        def delete(attempt: Attempt) -> None:
            try:
                self._embeddings.delete_embedding_by_id(dataset.id, embedding.id)
            except ApiException as error:
                if attempt.number == 1 or error.status != 404:
                    raise

        self._call("remove embeddings", delete)

    def project(self, dataset: Dataset, embedding_id: str) -> None:
        """Starts the jobs that read the embeddings and compute their two-dimensional maps."""
        trigger = self._embeddings.trigger2d_embeddings_job

        def start(method: Any) -> None:
            body = models.Trigger2dEmbeddingJobRequest(dimensionality_reduction_method=method)
            self._call("map embeddings", lambda _: trigger(dataset.id, embedding_id, body))

        for each in models.DimensionalityReductionMethod:
            start(each)

    # Selection

    def start_selection(self, dataset: Dataset, embedding_id: str, request: dict[str, Any]) -> str:
        """Starts a selection, given as the API names its fields; returns the id of its job."""
        body = models.SamplingCreateRequest.from_dict(request)
        trigger = self._samplings.trigger_sampling_by_id
        return str(self._call("select", lambda _: trigger(dataset.id, embedding_id, body)).job_id)

    def task(self, job_id: str) -> Task:
        """The state of a job: WAITING, RUNNING, FINISHED, FAILED or UNKNOWN."""
        found = self._call("tell how the selection goes", lambda _: self._jobs.get_job_status_by_id(job_id))
        result = found.result.data if found.result else None
        state = models.JobState(found.status).value
        return Task(job_id, state, float(found.wait_time_till_next_poll), found.error or "", result)
