"""The job's calls to the Lightly platform.

A call that creates something may have succeeded although its answer was lost. So a retry of such a call first checks
whether the platform has it already.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightly.api import utils as lightly_utils
from lightly.openapi_generated.swagger_client import api as endpoints
from lightly.openapi_generated.swagger_client import models
from lightly.openapi_generated.swagger_client.exceptions import ApiException

from job.inputs.frames import FrameOf
from job.lightly.records import Dataset, Embedding, Tag, Task, WriteUrls
from job.lightly.transport import TIMEOUT, Refused, Transport
from job.retry import Attempt

_PAGE_SIZE = 25_000
# According to the API, versions of predictions are "currently ignored", but must be given and must not be negative.
_PREDICTION_VERSION = 1


class Platform:
    """The platform, with the permissions of one user.

    Args:
        transport: The transport for all calls.

    Attributes:
        server: Address of the platform.
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

    def find_dataset_by_id(self, dataset_id: str) -> Dataset | None:
        """Finds a dataset by its id; None if it does not exist."""
        try:
            answer = self._call("look up the dataset", lambda _: self._datasets.get_dataset_by_id(dataset_id))
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return Dataset(answer.id, answer.name)

    def find_dataset_by_name(self, name: str) -> Dataset | None:
        """Finds a dataset by its name, first among the user's own and then among the team's; None if there is none.

        A dataset that somebody else shares is only found by its id. Otherwise equal names could send images to the
        wrong dataset.
        """
        for scope in ({"shared": False}, {"get_assets_of_team": True}):
            if dataset := self._find_dataset(name, **scope):
                return dataset
        return None

    def _find_dataset(self, name: str, **scope: bool) -> Dataset | None:
        pages = self._pages(
            "look up the dataset", self._datasets.get_datasets_query_by_name, 5000, name, exact=True, **scope
        )
        return next((Dataset(dataset.id, dataset.name) for dataset in pages if dataset.name == name), None)

    def create_dataset(self, name: str) -> Dataset:
        """Makes a dataset of images."""
        body = models.DatasetCreateRequest(
            name=name, type=models.DatasetType.IMAGES, creator=models.DatasetCreator.USER_PIP
        )

        def create(attempt: Attempt) -> Dataset:
            if attempt.number > 1 and (dataset := self._find_dataset(name, shared=False)):
                return dataset
            return Dataset(self._datasets.create_dataset(body).id, name)

        return self._call("make a dataset", create)

    def quota(self) -> int:
        """The largest number of samples that a dataset of this user may have."""
        return int(self._call("read the quota", lambda _: self._quota.get_quota_maximum_dataset_size()))

    def register_upload(self, dataset: Dataset, total: int, processed: int) -> None:
        """Announces an upload.

        Args:
            dataset: The dataset.
            total: Number of samples after the upload.
            processed: Number of samples that the dataset has now.
        """
        body = models.JobStatusMeta(
            total=total, processed=processed, upload_method=models.JobStatusUploadMethod.USER_PIP, is_registered=True
        )
        self._call("register the upload", lambda _: self._datasets.register_dataset_upload_by_id(dataset.id, body))

    def datasources(self, dataset: Dataset) -> dict[str, str]:
        """The URIs that the platform reads files from, by purpose."""
        get = self._datasources.get_datasources_by_dataset_id
        try:
            datasources = self._call("list datasources", lambda _: get(dataset.id))
        except Refused as error:
            if error.status == 404:
                return {}
            raise
        configs = [datasource.actual_instance for datasource in datasources]
        return {str(config.purpose): config.full_path for config in configs if hasattr(config, "full_path")}

    def set_datasource(self, dataset: Dataset, config: dict[str, Any]) -> None:
        """Sets the URI that the platform reads files from; `config` has the API's field names."""
        body = models.DatasourceConfig.from_dict(config)
        self._call("set the datasource", lambda _: self._datasources.update_datasource_by_dataset_id(dataset.id, body))

    # Samples

    def samples(self, dataset: Dataset) -> dict[str, str]:
        """The ids of all samples, by file name."""
        mode = models.SamplePartialMode.FILENAMES
        pages = self._pages(
            "list samples", self._samples.get_samples_partial_by_dataset_id, _PAGE_SIZE, dataset.id, mode=mode
        )
        return {sample.file_name: sample.id for sample in pages}

    def file_names(self, dataset: Dataset) -> list[str]:
        """The file names of all samples in the platform's own order, which scores, masks and embeddings share."""
        get = self._mappings.get_sample_mappings_by_dataset_id
        return list(self._pages("list samples", get, _PAGE_SIZE, dataset.id, field="fileName"))

    def create_sample(
        self,
        dataset: Dataset,
        file_name: str,
        thumbnail_name: str | None,
        meta_data: dict[str, Any],
        frame: FrameOf | None = None,
    ) -> tuple[str, WriteUrls | None]:
        """Registers an image.

        Args:
            dataset: The dataset.
            file_name: File name of the image.
            thumbnail_name: File name of the thumbnail; None if no file is uploaded.
            meta_data: Metadata of the file, with the API's field names.
            frame: Where in a video the image is; None if it is no frame.

        Returns:
            The id of the sample, and the URLs for its files. The URLs are None if no file is uploaded, or if an earlier
            attempt made the sample.
        """
        path = f"/v1/datasets/{dataset.id}/samples"
        body: dict[str, Any] = {"fileName": file_name, "exif": {}, "metaData": meta_data}
        if frame:
            body["videoFrameData"] = {
                "sourceVideo": frame.video,
                "sourceVideoFrameIndex": frame.number,
                "sourceVideoFrameTimestamp": frame.seconds,
            }

        def create(attempt: Attempt) -> tuple[str, WriteUrls | None]:
            if attempt.number > 1 and (sample := self._find_sample(dataset, file_name)):
                return sample, None
            if thumbnail_name is None:
                return self._post(path, body, "CreateEntityResponse").id, None
            with_thumbnail = body | {"thumbName": thumbnail_name}
            answer = self._post(f"{path}/withWriteUrls", with_thumbnail, "CreateSampleWithWriteUrlsResponse")
            return answer.id, WriteUrls(answer.sample_write_urls.full, answer.sample_write_urls.thumb)

        return self._call("add a sample", create)

    def _find_sample(self, dataset: Dataset, file_name: str) -> str | None:
        mode = models.SamplePartialMode.FILENAMES
        samples = self._samples.get_samples_partial_by_dataset_id(
            dataset.id, mode=mode, file_name=file_name, page_size=_PAGE_SIZE, page_offset=0
        )
        return next((sample.id for sample in samples if sample.file_name == file_name), None)

    def write_urls(self, dataset: Dataset, sample: str) -> WriteUrls:
        """The URLs for the files of a sample."""
        get = self._samples.get_sample_image_write_urls_by_id
        urls = self._call("get upload URLs", lambda _: get(dataset.id, sample))
        return WriteUrls(urls.full, urls.thumb)

    def put(self, url: str, content: bytes | Path) -> None:
        """Uploads a file, given as its content or its path, to a signed URL."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        headers = {}
        if lightly_utils.get_signed_url_destination(url) == lightly_utils.DatasourceType.AZURE:
            headers = lightly_utils.build_azure_signed_url_write_headers(str(size))
        upload = self._transport.client.upload_file_with_signed_url

        def put(attempt: Attempt) -> None:
            attempt.expect(size)
            # Each attempt opens the file itself, since one that timed out may still be reading.
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                upload(file, url, headers=headers, session=self._transport.files)

        self._call("upload a file", put)

    # Predictions and scores

    def set_prediction_task(self, dataset: Dataset, name: str, categories: list[dict[str, Any]]) -> None:
        """Makes an object-detection task, or updates it."""
        body = models.PredictionTaskSchema.from_dict(
            {"name": name, "type": "OBJECT_DETECTION", "categories": categories}
        )
        create = self._predictions.create_or_update_prediction_task_schema_by_dataset_id
        self._call(
            "set the prediction task", lambda _: create(dataset.id, body, prediction_uuid_timestamp=_PREDICTION_VERSION)
        )

    def set_predictions(self, dataset: Dataset, sample: str, predictions: list[dict[str, Any]]) -> None:
        """Sets the predictions of a sample, with the API's field names.

        The client would check every number separately, which takes 60 ms for 100 boxes of 80 classes.
        """
        path = f"/v1/datasets/{dataset.id}/predictions/samples/{sample}"
        query = [("predictionUUIDTimestamp", _PREDICTION_VERSION)]
        self._call("set predictions", lambda _: self._post(path, predictions, "CreateEntityResponse", query))

    def _post(self, path: str, body: Any, answer: str, query: Sequence[tuple[str, Any]] = ()) -> Any:
        """Posts a body without the client's checks, which take too long for calls that are made for every image."""
        return self._transport.client.api_client.call_api(
            path,
            "POST",
            query_params=list(query),  # the client adds the token to this list
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["ApiKeyAuth"],
            response_types_map={"201": answer},
            _return_http_data_only=True,
        )

    def scores(self, dataset: Dataset, tag: Tag) -> dict[str, list[float]]:
        """The active-learning scores of a tag, by score type, in the order of its samples."""
        entries = self._call(
            "list scores", lambda _: self._scores.get_active_learning_scores_by_tag_id(dataset.id, tag.id)
        )

        def read(score_id: str) -> list[float]:
            get = self._scores.get_active_learning_score_by_score_id
            scores: list[float] = self._call("read scores", lambda _: get(dataset.id, tag.id, score_id)).scores
            return scores

        return {entry.score_type: read(entry.id) for entry in entries}

    def set_scores(self, dataset: Dataset, tag: Tag, kind: str, scores: list[float]) -> None:
        """Sets the active-learning scores of one type of a tag, in the order of its samples."""
        body = models.ActiveLearningScoreCreateRequest(score_type=kind, scores=scores)
        create = self._scores.create_or_update_active_learning_score_by_tag_id
        self._call("set scores", lambda _: create(dataset.id, tag.id, body))

    # Tags

    def tags(self, dataset: Dataset) -> list[Tag]:
        """All tags."""
        return self._call("list tags", lambda _: self._list_tags(dataset))

    def _list_tags(self, dataset: Dataset) -> list[Tag]:
        tags = self._tags.get_tags_by_dataset_id(dataset.id)
        return [Tag(tag.id, tag.name, tag.bit_mask_data, tag.tot_size) for tag in tags]

    def create_initial_tag(self, dataset: Dataset, image_type: str) -> None:
        """Makes the tag of all samples, which a new dataset lacks; `image_type` is full, thumbnail or meta."""
        body = models.InitialTagCreateRequest(img_type=models.ImageType(image_type), creator=models.TagCreator.USER_PIP)

        def create(attempt: Attempt) -> None:
            if attempt.number == 1 or not self._list_tags(dataset):
                self._tags.create_initial_tag_by_dataset_id(dataset.id, body)

        self._call("make the initial tag", create)

    def enlarge_tags(self, dataset: Dataset, name: str) -> None:
        """Extends all tags to samples that were added later, and makes a tag of these samples with the given name."""
        body = models.TagUpsizeRequest(upsize_tag_name=name, upsize_tag_creator=models.TagCreator.USER_PIP)

        def enlarge(attempt: Attempt) -> None:
            if attempt.number == 1 or all(tag.name != name for tag in self._list_tags(dataset)):
                self._tags.upsize_tags_by_dataset_id(dataset.id, body)

        self._call("enlarge the tags", enlarge)

    def create_tag(self, dataset: Dataset, name: str, mask: str, size: int, parent: Tag) -> Tag:
        """Makes a tag.

        Args:
            dataset: The dataset.
            name: Name of the tag.
            mask: The samples of the tag, in the encoding of `job.lightly.masks`.
            size: Number of samples in the dataset.
            parent: A tag that contains all samples of the mask.
        """
        body = models.TagCreateRequest(
            name=name,
            prev_tag_id=parent.id,
            bit_mask_data=mask,
            tot_size=size,
            creator=models.TagCreator.USER_PIP,
        )

        def create(attempt: Attempt) -> Tag:
            if attempt.number > 1:
                for tag in self._list_tags(dataset):
                    if tag.name == name:
                        return tag
            return Tag(self._tags.create_tag_by_dataset_id(dataset.id, body).id, name, mask, size)

        return self._call("make a tag", create)

    # Embeddings

    def embeddings(self, dataset: Dataset) -> list[Embedding]:
        """All embeddings, newest first."""
        entries = self._call("list embeddings", lambda _: self._embeddings.get_embeddings_by_dataset_id(dataset.id))
        entries = sorted(entries, key=lambda entry: entry.created_at, reverse=True)
        return [Embedding(entry.id, entry.name, entry.is_processed) for entry in entries]

    def read_embedding(self, dataset: Dataset, embedding: Embedding) -> bytes:
        """Downloads the CSV file of embeddings."""
        get = self._embeddings.get_embeddings_csv_read_url_by_id
        url = self._call("get the URL of embeddings", lambda _: get(dataset.id, embedding.id))

        def read(attempt: Attempt) -> bytes:
            with self._transport.files.get(url, timeout=TIMEOUT, stream=True) as answer:
                answer.raise_for_status()
                attempt.expect(int(answer.headers.get("Content-Length", 0)))
                return answer.content

        return self._call("download embeddings", read)

    def create_embedding(self, dataset: Dataset, name: str) -> tuple[str, str]:
        """Makes embeddings with a new name; returns their id and the URL for their CSV file."""

        def create(attempt: Attempt) -> tuple[str, str]:
            if attempt.number > 1:
                for embedding in self._embeddings.get_embeddings_by_dataset_id(dataset.id):
                    if embedding.name == name:
                        self._embeddings.delete_embedding_by_id(dataset.id, embedding.id)
            answer = self._embeddings.get_embeddings_csv_write_url_by_id(dataset.id, name=name)
            return answer.embedding_id, answer.signed_write_url

        return self._call("make embeddings", create)

    def delete_embedding(self, dataset: Dataset, embedding: Embedding) -> None:
        """Deletes embeddings."""

        def delete(attempt: Attempt) -> None:
            try:
                self._embeddings.delete_embedding_by_id(dataset.id, embedding.id)
            except ApiException as error:
                if attempt.number == 1 or error.status != 404:
                    raise

        self._call("delete embeddings", delete)

    def project(self, dataset: Dataset, embedding_id: str) -> None:
        """Starts the platform's jobs that read the embeddings and compute their two-dimensional maps."""
        trigger = self._embeddings.trigger2d_embeddings_job

        def start(method: Any) -> None:
            body = models.Trigger2dEmbeddingJobRequest(dimensionality_reduction_method=method)
            self._call("map embeddings", lambda _: trigger(dataset.id, embedding_id, body))

        for method in models.DimensionalityReductionMethod:
            start(method)

    # Selection

    def start_selection(self, dataset: Dataset, embedding_id: str, request: dict[str, Any]) -> str:
        """Starts a selection, described with the API's field names; returns the id of its task."""
        body = models.SamplingCreateRequest.from_dict(request)
        trigger = self._samplings.trigger_sampling_by_id
        return str(self._call("start a selection", lambda _: trigger(dataset.id, embedding_id, body)).job_id)

    def task(self, task_id: str) -> Task:
        """The current state of a task."""
        answer = self._call("read the state of the selection", lambda _: self._jobs.get_job_status_by_id(task_id))
        result = answer.result.data if answer.result else None
        state = models.JobState(answer.status).value
        return Task(task_id, state, float(answer.wait_time_till_next_poll), answer.error or "", result)
