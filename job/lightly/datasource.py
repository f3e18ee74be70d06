"""Where the platform reads files from, when it is to read them in place."""

import os
from typing import Any

import boto3
from lightly.openapi_generated.swagger_client.models import S3Region

from job.errors import SettingsError
from job.lightly.api import Dataset, Platform
from job.secret import Secret
from job.settings import Settings
from job.uris import Location

_BOTH = "INPUT_OUTPUT"


def register(platform: Platform, dataset: Dataset, configs: dict[str, dict[str, Any]]) -> None:
    """Sets the datasources of a dataset; one that serves both purposes is left as it is.

    Args:
        platform: Where.
        dataset: Where there.
        configs: From `configs`.

    Raises:
        SettingsError: It has others.
    """
    present = platform.datasources(dataset)
    both = present.get(_BOTH)
    for purpose, config in configs.items():
        path = present.get(purpose, both)
        if path is not None and path.rstrip("/") != config["fullPath"].rstrip("/"):
            raise SettingsError(
                f"Lightly's dataset {dataset.name!r} reads its {purpose} files from {path!r}, not "
                f"{config['fullPath']!r}: set CORAL_LIGHTLY_DATASET to another, or leave CORAL_LIGHTLY_DATASOURCE out."
            )
    for config in configs.values():
        if both is None:
            platform.set_datasource(dataset, config)  # again, too: keys and roles change


def configs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The datasources by purpose, as the API names their fields: the images, and on S3 also the predictions.

    Raises:
        SettingsError: The platform could not read there.
    """
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        raise SettingsError(
            f"CORAL_LIGHTLY_DATASOURCE=1 works with Amazon's S3 only, and AWS_ENDPOINT_URL is {endpoint!r}."
        )
    session = boto3.Session()
    region = os.environ.get("AWS_REGION") or session.region_name
    if region not in {each.value for each in S3Region}:
        raise SettingsError(
            f"CORAL_LIGHTLY_DATASOURCE=1 needs the bucket's region in AWS_REGION; {region!r} is none that it knows."
        )
    access = _access(settings, session)
    places = {"INPUT": settings.input, "LIGHTLY": settings.output}
    return {
        purpose: {"purpose": purpose, "fullPath": Location.of(uri).normal, "s3Region": region, **access}
        for purpose, uri in places.items()
        if Location.of(uri).scheme == "s3"
    }


def _access(settings: Settings, session: Any) -> dict[str, Any]:
    if settings.lightly_role_arn and settings.lightly_external_id:
        role = {"s3ARN": settings.lightly_role_arn, "s3ExternalId": settings.lightly_external_id.value}
        return {"type": "S3DelegatedAccess", **role}
    credentials = session.get_credentials()
    if credentials is None:
        raise SettingsError("CORAL_LIGHTLY_DATASOURCE=1 finds no AWS keys to give: set CORAL_LIGHTLY_ROLE_ARN.")
    keys = credentials.get_frozen_credentials()
    if keys.token:
        raise SettingsError(
            "CORAL_LIGHTLY_DATASOURCE=1 finds temporary AWS keys, which would soon be of no use to Lightly: set "
            "CORAL_LIGHTLY_ROLE_ARN and CORAL_LIGHTLY_EXTERNAL_ID."
        )
    secret = Secret(keys.secret_key)  # from here on it is kept out of the logs
    return {"type": "S3", "s3AccessKeyId": keys.access_key, "s3SecretAccessKey": secret.value}
