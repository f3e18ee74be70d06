"""The datasources of a dataset: the buckets that the platform reads, if it is to read the images in place."""

import os
from typing import Any

import boto3
from lightly.openapi_generated.swagger_client.models import S3Region

from job.errors import SettingsError
from job.lightly.api import Platform
from job.lightly.records import Dataset
from job.secret import Secret
from job.settings import Settings
from job.uris import Location

_BOTH = "INPUT_OUTPUT"


def register(platform: Platform, dataset: Dataset, configs: dict[str, dict[str, Any]]) -> None:
    """Sets the datasources of a dataset; a datasource for both purposes stays unchanged.

    Args:
        platform: The platform.
        dataset: The dataset on the platform.
        configs: The datasources by purpose, from `configs`.

    Raises:
        SettingsError: If the dataset has a datasource in another place.
    """
    present = platform.datasources(dataset)
    both = present.get(_BOTH)
    for purpose, config in configs.items():
        path = present.get(purpose, both)
        if path is not None and path.rstrip("/") != config["fullPath"].rstrip("/"):
            raise SettingsError(
                f"Lightly's dataset {dataset.name!r} reads its {purpose} files from {path!r}, not from "
                f"{config['fullPath']!r}: set CORAL_LIGHTLY_DATASET to another dataset, or unset "
                "CORAL_LIGHTLY_DATASOURCE."
            )
    for config in configs.values():
        if both is None:
            platform.set_datasource(dataset, config)  # even if it is set: keys and roles change


def configs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The datasources by purpose, with the API's field names: the images, and on S3 also the predictions.

    Raises:
        SettingsError: If the platform could not read the bucket: another endpoint, region, or kind of credentials.
    """
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        raise SettingsError(
            f"CORAL_LIGHTLY_DATASOURCE=1 works with Amazon's S3 only, but AWS_ENDPOINT_URL is {endpoint!r}: "
            "unset one of them."
        )
    session = boto3.Session()
    region = os.environ.get("AWS_REGION") or session.region_name
    if region not in {supported.value for supported in S3Region}:
        raise SettingsError(
            f"CORAL_LIGHTLY_DATASOURCE=1 needs the bucket's region in AWS_REGION: Lightly does not support {region!r}."
        )
    access = _access(settings, session)
    uris = {"INPUT": settings.input, "LIGHTLY": settings.output}
    return {
        purpose: {"purpose": purpose, "fullPath": Location.parse(uri).normalized, "s3Region": region, **access}
        for purpose, uri in uris.items()
        if Location.parse(uri).scheme == "s3"
    }


def _access(settings: Settings, session: Any) -> dict[str, Any]:
    if settings.lightly_role_arn and settings.lightly_external_id:
        role = {"s3ARN": settings.lightly_role_arn, "s3ExternalId": settings.lightly_external_id.value}
        return {"type": "S3DelegatedAccess", **role}
    credentials = session.get_credentials()
    if credentials is None:
        raise SettingsError(
            "CORAL_LIGHTLY_DATASOURCE=1 needs credentials for Lightly, and there are no AWS keys: set "
            "CORAL_LIGHTLY_ROLE_ARN and CORAL_LIGHTLY_EXTERNAL_ID."
        )
    keys = credentials.get_frozen_credentials()
    if keys.token:
        raise SettingsError(
            "CORAL_LIGHTLY_DATASOURCE=1 cannot use temporary AWS keys, which will expire before Lightly can use them: "
            "set CORAL_LIGHTLY_ROLE_ARN and CORAL_LIGHTLY_EXTERNAL_ID."
        )
    secret = Secret(keys.secret_key)  # so that the logs do not show it
    return {"type": "S3", "s3AccessKeyId": keys.access_key, "s3SecretAccessKey": secret.value}
