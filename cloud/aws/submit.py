"""Starts the job on AWS Batch: `python -m cloud.aws.submit --help`.

A single shard is one job, `run`. Several shards are an array job, `predict`, and a job `select`, which AWS starts when
the whole array has succeeded.
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

_MAX_SHARDS = 10_000  # AWS's limit for an array job
_POLL_SECONDS = 15.0
_CORES_PER_GPU, _MIB_PER_GPU = 4, 14_000  # as the template asks for


def submit_one(
    batch: Any,
    queue: str,
    definition: str,
    command: str,
    environment: Mapping[str, str],
    needed: Sequence[Mapping[str, str]] = (),
    **more: Any,
) -> str:
    """Submits one job.

    Args:
        batch: boto3's client.
        queue: Name or ARN of the queue.
        definition: Name or ARN of the job definition.
        command: `run`, `predict` or `select`.
        environment: Settings, name to value.
        needed: What it needs instead of what the definition says.
        more: Other arguments of `submit_job`.

    Returns:
        The id of the job.

    Raises:
        ServiceUnavailable: If AWS cannot be reached, or rejects the job.
    """
    overrides: dict[str, Any] = {
        "command": [command],
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
    }
    if needed:
        overrides["resourceRequirements"] = list(needed)
    try:
        answer = batch.submit_job(
            jobName=f"coralpick-{command}",
            jobQueue=queue,
            jobDefinition=definition,
            containerOverrides=overrides,
            **more,
        )
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(f"Cannot submit the job {command} to AWS Batch: {error}.") from None
    return str(answer["jobId"])


def need_gpus(count: int) -> list[dict[str, str]]:
    """Returns what a job needs that detects on several GPUs of one machine; empty for one, as the definition has it."""
    if count == 1:
        return []
    needed = {"GPU": count, "VCPU": count * _CORES_PER_GPU, "MEMORY": count * _MIB_PER_GPU}
    return [{"type": kind, "value": str(value)} for kind, value in needed.items()]


def submit(
    batch: Any, queue: str, definition: str, shards: int, environment: Mapping[str, str], gpus: int = 1
) -> list[str]:
    """Submits all jobs of a run.

    Args:
        batch: boto3's client.
        queue: Name or ARN of the queue.
        definition: Name or ARN of the job definition.
        shards: Number of machines that share the images.
        environment: Settings, name to value.
        gpus: Number of GPUs that each of them detects with.

    Returns:
        The ids of the jobs; the last job writes the results.

    Raises:
        ServiceUnavailable: If AWS cannot be reached, or rejects a job.
    """
    needed = need_gpus(gpus)
    if shards == 1:
        return [submit_one(batch, queue, definition, "run", environment, needed)]
    array = submit_one(batch, queue, definition, "predict", environment, needed, arrayProperties={"size": shards})
    # AWS sets the number of shards in the jobs of the array, but not in the job that waits for the array.
    counted = {**environment, "CORAL_SHARD_COUNT": str(shards)}
    try:
        return [array, submit_one(batch, queue, definition, "select", counted, dependsOn=[{"jobId": array}])]
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error} The job predict ({array}) keeps running: terminate it, or submit again when it has finished."
        ) from None


def wait(batch: Any, ids: Sequence[str], pause: float = _POLL_SECONDS) -> str:
    """Waits until all jobs have succeeded, or one has failed.

    Args:
        batch: boto3's client.
        ids: Ids of the jobs, in the order of their dependencies.
        pause: Seconds between two polls.

    Returns:
        The failed job and the reason; empty if all jobs have succeeded.

    Raises:
        ServiceUnavailable: If AWS does not answer.
    """
    while True:
        try:
            jobs = batch.describe_jobs(jobs=list(ids))["jobs"]
        except (BotoCoreError, ClientError) as error:
            raise ServiceUnavailable(f"AWS Batch does not answer; the jobs keep running: {error}.") from None
        # An array comes before the job that depends on it: the reason of the latter is only the failed dependency.
        for job in sorted(jobs, key=lambda job: list(ids).index(job["jobId"])):
            if job["status"] == "FAILED":
                container = job.get("container", {})
                reasons = [job.get("statusReason"), container.get("reason")]
                if "exitCode" in container:
                    reasons.append(f"exit code {container['exitCode']}")
                if "arrayProperties" in job:
                    reasons.append(f"see: aws batch list-jobs --array-job-id {job['jobId']} --job-status FAILED")
                reason = "; ".join(filter(None, reasons)) or "no reason given"
                return f"{job['jobName']} ({job['jobId']}) has failed: {reason}"
        if len(jobs) == len(ids) and all(job["status"] == "SUCCEEDED" for job in jobs):
            return ""
        time.sleep(pause)


@click.command()
@click.option("--queue", required=True, help="Name of the queue, from the outputs of the stack.")
@click.option("--definition", required=True, help="Name of the job definition, from the outputs of the stack.")
@click.option(
    "--shards", type=click.IntRange(1, _MAX_SHARDS), default=1, help="Number of shards, with one machine each."
)
@click.option(
    "--gpus",
    type=click.IntRange(1, 16),
    default=1,
    help="Number of GPUs of each machine that detects; the stack needs instance types that have as many.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the jobs have finished; exit code 1 if one fails.")
@click.argument("pairs", metavar="CORAL_INPUT=s3://... CORAL_OUTPUT=s3://... [NAME=VALUE]...", nargs=-1)
def command(queue: str, definition: str, shards: int, gpus: int, waits: bool, pairs: tuple[str, ...]) -> int:
    """Starts the job on AWS Batch, with the credentials and the region of the AWS CLI."""
    environment = settings.parse(pairs)
    try:
        batch = boto3.client("batch")
    except BotoCoreError as error:
        raise ServiceUnavailable(f"Cannot use AWS Batch: {error}.") from None
    ids = submit(batch, queue, definition, shards, environment, gpus)
    for name, job in zip(("predict", "select") if shards > 1 else ("run",), ids, strict=True):
        print(f"{name}: {job}")
    query = "jobs[].[jobName,status,statusReason,arrayProperties.statusSummary]"
    print(f"Show the progress: aws batch describe-jobs --query '{query}' --jobs {' '.join(ids)}", flush=True)
    if waits and (reason := wait(batch, ids)):
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(settings.run(command, sys.argv[1:]))
