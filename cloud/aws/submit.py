"""Starts the job on AWS Batch: `python -m cloud.aws.submit --help`.

One shard is one job, `run`. More of them are an array job, `predict`, and one more job, `select`, which AWS starts when
the whole array is through.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
import click
from botocore.exceptions import BotoCoreError, ClientError

from cloud import settings
from job.errors import ServiceUnavailable

_MOST_SHARDS = 10_000  # of an array job
_PAUSE_SECONDS = 15.0


def submit_one(
    batch: Any, queue: str, definition: str, command: str, environment: Mapping[str, str], **more: Any
) -> str:
    """Submits one job.

    Args:
        batch: boto3's client.
        queue: Name or ARN of the queue.
        definition: Name or ARN of the job definition.
        command: `run`, `predict` or `select`.
        environment: Settings.
        more: What else `submit_job` takes.

    Returns:
        The id of the job.

    Raises:
        ServiceUnavailable: AWS does not take it.
    """
    overrides = {
        "command": [command],
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
    }
    try:
        answer = batch.submit_job(
            jobName=f"coralpick-{command}",
            jobQueue=queue,
            jobDefinition=definition,
            containerOverrides=overrides,
            **more,
        )
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(f"AWS Batch does not take the job {command}: {error}.") from None
    return str(answer["jobId"])


def submit(batch: Any, queue: str, definition: str, shards: int, environment: Mapping[str, str]) -> list[str]:
    """Submits everything.

    Args:
        batch: boto3's client.
        queue: Name or ARN of the queue.
        definition: Name or ARN of the job definition.
        shards: How many machines share the images.
        environment: Settings.

    Returns:
        The ids of the jobs, the last one being that which leaves the results.

    Raises:
        ServiceUnavailable: AWS does not take a job.
    """
    if shards == 1:
        return [submit_one(batch, queue, definition, "run", environment)]
    array = submit_one(batch, queue, definition, "predict", environment, arrayProperties={"size": shards})
    # Of the array, AWS tells its jobs how many they are; of its end, nobody tells the job that waits for it.
    counted = {**environment, "CORAL_SHARD_COUNT": str(shards)}
    try:
        return [array, submit_one(batch, queue, definition, "select", counted, dependsOn=[{"jobId": array}])]
    except ServiceUnavailable as error:
        raise ServiceUnavailable(f"{error} The job predict, {array}, goes on without it.") from None


def wait(batch: Any, ids: Sequence[str], pause: float = _PAUSE_SECONDS) -> str:
    """Waits until all jobs have succeeded, or one has failed.

    Args:
        batch: boto3's client.
        ids: Of the jobs.
        pause: Seconds between two looks.

    Returns:
        Which job failed and why; empty if none did.

    Raises:
        ServiceUnavailable: AWS does not answer.
    """
    while True:
        try:
            jobs = batch.describe_jobs(jobs=list(ids))["jobs"]
        except (BotoCoreError, ClientError) as error:
            raise ServiceUnavailable(f"AWS Batch cannot be asked any more, the jobs go on: {error}.") from None
        # An array before the job that depends on it, which only says that it depended.
        for job in sorted(jobs, key=lambda each: list(ids).index(each["jobId"])):
            if job["status"] == "FAILED":
                container = job.get("container", {})
                reasons = [job.get("statusReason"), container.get("reason")]
                if "exitCode" in container:
                    reasons.append(f"exit code {container['exitCode']}")
                if "arrayProperties" in job:
                    reasons.append(f"see: aws batch list-jobs --array-job-id {job['jobId']} --job-status FAILED")
                return (
                    f"{job['jobName']} ({job['jobId']}) has failed: {'; '.join(filter(None, reasons)) or 'no reason'}"
                )
        if len(jobs) == len(ids) and all(job["status"] == "SUCCEEDED" for job in jobs):
            return ""
        time.sleep(pause)


@click.command()
@click.option("--queue", required=True, help="Name of the queue: an output of the stack.")
@click.option("--definition", required=True, help="Name of the job definition: an output of the stack.")
@click.option("--shards", type=click.IntRange(1, _MOST_SHARDS), default=1, help="How many machines share the images.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the end; exit code 1 if a job fails.")
@click.argument("pairs", metavar="CORAL_INPUT=s3://... CORAL_OUTPUT=s3://... [NAME=VALUE]...", nargs=-1)
def command(queue: str, definition: str, shards: int, waits: bool, pairs: tuple[str, ...]) -> int:
    """Starts the job on AWS Batch, with credentials and region as the AWS CLI has them."""
    environment = settings.parse(pairs)
    try:
        batch = boto3.client("batch")
    except BotoCoreError as error:
        raise ServiceUnavailable(f"AWS Batch cannot be used: {error}.") from None
    ids = submit(batch, queue, definition, shards, environment)
    for name, job in zip(("predict", "select") if shards > 1 else ("run",), ids, strict=True):
        print(f"{name}: {job}")
    query = "jobs[].[jobName,status,statusReason,arrayProperties.statusSummary]"
    print(f"How far it is: aws batch describe-jobs --query '{query}' --jobs {' '.join(ids)}", flush=True)
    if waits and (reason := wait(batch, ids)):
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(settings.run(command, sys.argv[1:]))
