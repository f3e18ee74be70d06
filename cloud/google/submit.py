"""Starts the job on Google Cloud Batch: `python -m cloud.google.submit --help`.

A single shard is one job, `run`. Several shards are a job `predict` with one task per shard, and a job `select`. Batch
has no dependencies between jobs, so this program waits until `predict` has succeeded and then starts `select`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cloud import settings
from job.errors import ServiceUnavailable

_TEMPLATE = Path(__file__).with_name("job.json")
_MAX_SHARDS = 10_000  # Google's limit for the tasks of a job
# Google's machines with L4 GPUs, by their number.
_MACHINES = {1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"}
_POLL_SECONDS = 30.0
_MAX_FAILURES = 20  # in a row: ten minutes without a network
_FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED", "DELETION_IN_PROGRESS")


def fill_job(
    command: str,
    image: str,
    region: str,
    account: str,
    shards: int,
    environment: Mapping[str, str],
    secret: str | None,
    gpus: int = 1,
) -> dict[str, Any]:
    """Fills the template of a job.

    Args:
        command: `run`, `predict` or `select`.
        image: URI of the image.
        region: Region of the machines.
        account: Email of the service account that the job runs as.
        shards: Number of machines that share the images.
        environment: Settings, name to value.
        secret: Name of the Lightly token in Secret Manager; None if there is none. `predict` does not get it.
        gpus: Number of GPUs that each machine detects with: 1, 2, 4 or 8. `select` has one.

    Returns:
        The job, with the field names of Batch.
    """
    job: dict[str, Any] = json.loads(_TEMPLATE.read_text())
    group, allocation = job["taskGroups"][0], job["allocationPolicy"]
    spec = group["taskSpec"]
    group["taskCount"] = shards if command == "predict" else 1
    spec["runnables"][0]["container"] |= {"imageUri": image, "commands": [command]}
    spec["environment"]["variables"] |= environment
    if command == "select":  # Batch sets the number of tasks only in the job that has them
        spec["environment"]["variables"]["CORAL_SHARD_COUNT"] = str(shards)
    if secret and command != "predict":
        spec["environment"]["secretVariables"] = {"LIGHTLY_TOKEN": secret}
    if gpus > 1 and command != "select":
        (machine,) = allocation["instances"]
        machine["policy"]["machineType"] = _MACHINES[gpus]
        # All cores and nearly all memory, as with one GPU; machines with more of them have half as much again for each.
        spec["computeResource"] = {name: value * gpus * 3 // 2 for name, value in spec["computeResource"].items()}
    allocation["location"]["allowedLocations"] = [f"regions/{region}"]
    allocation["serviceAccount"]["email"] = account
    return job


def submit(name: str, region: str, path: Path) -> None:
    """Submits one job.

    Args:
        name: Name of the job.
        region: Region of the job.
        path: File that describes the job.

    Raises:
        ServiceUnavailable: If gcloud is not installed, or cannot submit the job.
    """
    done = _gcloud("submit", name, f"--location={region}", f"--config={path}")
    if done.returncode:
        raise ServiceUnavailable(f"gcloud cannot submit the job {name}: {done.stderr.strip()}")


def wait(name: str, region: str, pause: float = _POLL_SECONDS) -> str:
    """Waits until a job has finished.

    Args:
        name: Name of the job.
        region: Region of the job.
        pause: Seconds between two polls.

    Returns:
        The final state and the reason; empty if the job has succeeded.

    Raises:
        ServiceUnavailable: If gcloud fails many times in a row.
    """
    failures = 0
    while True:
        done = _gcloud("describe", name, f"--location={region}", "--format=json")
        failures = failures + 1 if done.returncode else 0
        if failures == _MAX_FAILURES:
            raise ServiceUnavailable(f"gcloud fails repeatedly; the job {name} keeps running: {done.stderr.strip()}")
        if not done.returncode:
            status = json.loads(done.stdout)["status"]
            if status["state"] == "SUCCEEDED":
                return ""
            if status["state"] in _FINAL_STATES:
                reasons = [event["description"] for event in status.get("statusEvents", []) if event.get("description")]
                return f"{name} ended as {status['state']}: {reasons[-1] if reasons else 'no reason given'}"
        time.sleep(pause)


def _gcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not (program := shutil.which("gcloud")):
        raise ServiceUnavailable("gcloud is not on the PATH: install the Google Cloud CLI and run `gcloud auth login`.")
    command = [program, "batch", "jobs", *arguments, "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@click.command()
@click.option("--image", required=True, help="URI of the image; with a digest, all shards run the same image.")
@click.option("--region", required=True, help="Region of the machines, such as us-central1.")
@click.option("--service-account", required=True, metavar="EMAIL", help="Service account that the job runs as.")
@click.option(
    "--shards", type=click.IntRange(1, _MAX_SHARDS), default=1, help="Number of shards, with one machine each."
)
@click.option(
    "--gpus",
    type=click.Choice([str(count) for count in _MACHINES]),
    default="1",
    help="Number of GPUs of each machine that detects.",
)
@click.option(
    "--token-secret",
    metavar="NAME",
    help="Secret with the Lightly token, such as projects/PROJECT/secrets/NAME/versions/latest.",
)
@click.argument("pairs", metavar="CORAL_INPUT=gs://... CORAL_OUTPUT=gs://... [NAME=VALUE]...", nargs=-1)
def command(
    image: str,
    region: str,
    service_account: str,
    shards: int,
    gpus: str,
    token_secret: str | None,
    pairs: tuple[str, ...],
) -> int:
    """Starts the job on Google Cloud Batch, in gcloud's project, and waits for it; exit code 1 if it fails."""
    environment = settings.parse(pairs)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    steps = ("predict", "select") if shards > 1 else ("run",)
    folder = Path(tempfile.mkdtemp(prefix="coralpick-"))
    for step in steps:
        job = fill_job(step, image, region, service_account, shards, environment, token_secret, int(gpus))
        (folder / f"{step}.json").write_text(json.dumps(job, indent=2) + "\n")
    print(f"The job descriptions are in {folder}.")
    for step in steps:
        name = f"coralpick-{step}-{stamp}"
        submit(name, region, folder / f"{step}.json")
        print(f"{step}: {name}")
        print(f"Show the progress: gcloud batch tasks list --location={region} --job={name}", flush=True)
        if reason := wait(name, region):
            print(reason, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(settings.run(command, sys.argv[1:]))
