"""A container engine for the tests alone: dockerd in a temporary folder, removed afterwards."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

# Debian's client comes first: it includes BuildKit, and newer clients need a plug-in for it.
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}") or "docker"
ZOO = "dl.fbaipublicfiles.com"
_SECONDS_TO_START = 30
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


class Engine:
    """dockerd with all its data in one folder.

    It sets up no network, so the firewall and the routes of the machine stay as they are. Containers use the network
    of the machine.

    Attributes:
        host: The engine's address, for DOCKER_HOST.
    """

    def __init__(self, folder: Path, host: str = "") -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = host or f"unix://{folder / 'docker.sock'}"

    def start(self) -> None:
        """Starts the engine and waits until it answers."""
        self._folder.mkdir(parents=True)
        # dockerd accepts `--gpus` if it finds this program. There is no GPU behind it.
        hook = self._folder / "bin" / "nvidia-container-runtime-hook"
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
        command: list[str | Path] = [
            "dockerd", "--data-root", self._folder / "data", "--exec-root", self._folder / "exec",
            "--pidfile", self._folder / "pid", "--host", self.host, "--bridge", "none", "--iptables=false",
            # It shares nothing with an engine that the machine may have.
            "--config-file", self._folder / "daemon.json", "--containerd-namespace", "coralpick",
            "--containerd-plugins-namespace", "coralpick-plugins",
        ]  # fmt: skip
        (self._folder / "daemon.json").write_text("{}")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"PATH": f"{hook.parent}:/usr/sbin:/sbin:{os.environ['PATH']}"},
            )  # fmt: skip
        for _ in range(_SECONDS_TO_START * 10):
            if self.docker("version").returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"dockerd did not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops the engine with all its containers, and removes its files."""
        if self._process:
            running = self.docker("ps", "--quiet").stdout.split()
            if running:
                self.docker("kill", *running)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(self._folder))]):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            print(f"{self._folder} could not be removed completely: files of containers may still be in use.")

    def docker(
        self, *arguments: str, timeout: float = 600, check: bool = False, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the docker client."""
        return subprocess.run(
            [DOCKER, *arguments], env=os.environ | {"DOCKER_HOST": self.host} | variables,
            capture_output=True, text=True, check=check, timeout=timeout,
        )  # fmt: skip

    def build(self, folder: Path, tag: str, *options: str) -> None:
        """Builds an image and prints the output of the build."""
        # One test needs this host. All builds get it, since another list of hosts would invalidate the build cache.
        network = ("--network", "host", "--add-host", f"{ZOO}:127.0.0.1")
        command = [DOCKER, "build", "--progress", "plain", *network, "--tag", tag, *options, str(folder)]
        environment = os.environ | {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        subprocess.run(command, env=environment, check=True, timeout=900)


def make_base(engine: Engine, folder: Path, more_authorities: bytes) -> str:
    """Builds a base image from Debian packages, since the official images are not available everywhere.

    Args:
        engine: The engine that gets the image.
        folder: A folder for temporary files.
        more_authorities: Certificates to trust in addition to those of this machine, in PEM.

    Returns:
        The name of the image.
    """
    context = folder / "base"
    context.mkdir()
    rootfs = context / "rootfs.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(rootfs)]
    subprocess.run(command, check=True, timeout=600)
    bundle = context / "ca-certificates.crt"
    bundle.write_bytes(Path(_BUNDLE).read_bytes() + more_authorities)
    (context / "Dockerfile").write_text(
        "FROM scratch\n"
        "ADD rootfs.tar /\n"
        f"COPY ca-certificates.crt {_BUNDLE}\n"
        f"ENV SSL_CERT_FILE={_BUNDLE} PIP_CERT={_BUNDLE} REQUESTS_CA_BUNDLE={_BUNDLE}\n"
    )
    engine.build(context, "coralpick-base")
    shutil.rmtree(context)
    return "coralpick-base"
