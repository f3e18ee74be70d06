"""Starts the job on Google Cloud Batch: `python -m cloud.google.submit --help`.

One shard is one job, `run`. More of them are a job `predict` of as many tasks, and when that has succeeded a job
`select`: Batch knows no order among jobs, so this program waits for the first one and starts the second.
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
_MOST_SHARDS = 10_000  # tasks of a job
_PAUSE_SECONDS = 30.0
_MOST_FAILURES = 20  # in a row, so ten minutes without a network
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "DELETION_IN_PROGRESS")


def filled(
    command: str, image: str, region: str, account: str, shards: int, environment: Mapping[str, str], secret: str | None
) -> dict[str, Any]:
    """A job as Batch takes it.

    Args:
        command: `run`, `predict` or `select`.
        image: URI of the image.
        region: Where the machines are to be.
        account: Email of the service account that the job runs as.
        shards: How many machines share the images.
        environment: Settings.
        secret: The Lightly token's name in Secret Manager, if there is one; `predict` does not get it.

    Returns:
        The template with all of that in it.
    """
    job: dict[str, Any] = json.loads(_TEMPLATE.read_text())
    group, allocation = job["taskGroups"][0], job["allocationPolicy"]
    spec = group["taskSpec"]
    group["taskCount"] = shards if command == "predict" else 1
    spec["runnables"][0]["container"] |= {"imageUri": image, "commands": [command]}
    spec["environment"]["variables"] |= environment
    if command == "select":  # of its own tasks, Batch tells a job how many they are
        spec["environment"]["variables"]["CORAL_SHARD_COUNT"] = str(shards)
    if secret and command != "predict":
        spec["environment"]["secretVariables"] = {"LIGHTLY_TOKEN": secret}
    allocation["location"]["allowedLocations"] = [f"regions/{region}"]
    allocation["serviceAccount"]["email"] = account
    return job


def submit(name: str, region: str, path: Path) -> None:
    """Submits one job.

    Args:
        name: For the job.
        region: Where it is kept.
        path: Of the file that describes it.

    Raises:
        ServiceUnavailable: There is no gcloud, or it does not take the job.
    """
    done = _gcloud("submit", name, f"--location={region}", f"--config={path}")
    if done.returncode:
        raise ServiceUnavailable(f"gcloud does not take the job {name}: {done.stderr.strip()}")


def wait(name: str, region: str, pause: float = _PAUSE_SECONDS) -> str:
    """Waits for the end of a job.

    Args:
        name: Of the job.
        region: Where it is kept.
        pause: Seconds between two looks.

    Returns:
        How and why it ended; empty if it succeeded.

    Raises:
        ServiceUnavailable: gcloud does not answer for some time.
    """
    failures = 0
    while True:
        done = _gcloud("describe", name, f"--location={region}", "--format=json")
        failures = failures + 1 if done.returncode else 0
        if failures == _MOST_FAILURES:
            raise ServiceUnavailable(f"gcloud cannot be asked any more, the job {name} goes on: {done.stderr.strip()}")
        if not done.returncode:
            status = json.loads(done.stdout)["status"]
            if status["state"] == "SUCCEEDED":
                return ""
            if status["state"] in _ENDED:
                told = [event["description"] for event in status.get("statusEvents", []) if event.get("description")]
                return f"{name} ended as {status['state']}: {told[-1] if told else 'no reason'}"
        time.sleep(pause)


def _gcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not (program := shutil.which("gcloud")):
        raise ServiceUnavailable("There is no gcloud: install the Google Cloud CLI, and run `gcloud auth login`.")
    command = [program, "batch", "jobs", *arguments, "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@click.command()
@click.option("--image", required=True, help="URI of the image; best with its digest, so that all shards run the same.")
@click.option("--region", required=True, help="Where the machines are, as in us-central1.")
@click.option("--service-account", required=True, metavar="EMAIL", help="Account that the job runs as.")
@click.option("--shards", type=click.IntRange(1, _MOST_SHARDS), default=1, help="How many machines share the images.")
@click.option(
    "--token-secret", metavar="NAME", help="Lightly token: projects/PROJECT/secrets/NAME/versions/latest, for example."
)
@click.argument("pairs", metavar="CORAL_INPUT=gs://... CORAL_OUTPUT=gs://... [NAME=VALUE]...", nargs=-1)
def command(
    image: str, region: str, service_account: str, shards: int, token_secret: str | None, pairs: tuple[str, ...]
) -> int:  # fmt: skip
    """Starts the job on Google Cloud Batch, in gcloud's project, and waits for its end; exit code 1 if it fails."""
    environment = settings.parse(pairs)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    commands = ("predict", "select") if shards > 1 else ("run",)
    folder = Path(tempfile.mkdtemp(prefix="coralpick-"))
    for each in commands:
        job = filled(each, image, region, service_account, shards, environment, token_secret)
        (folder / f"{each}.json").write_text(json.dumps(job, indent=2) + "\n")
    print(f"The jobs are described in {folder}.")
    for each in commands:
        name = f"coralpick-{each}-{stamp}"
        submit(name, region, folder / f"{each}.json")
        print(f"{each}: {name}")
        print(f"How far it is: gcloud batch tasks list --location={region} --job={name}", flush=True)
        if reason := wait(name, region):
            print(reason, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(settings.run(command, sys.argv[1:]))
