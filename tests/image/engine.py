"""A container engine for the tests alone, gone afterwards: dockerd on a folder of its own."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

# Debian's own client first: it has BuildKit in itself, where newer ones want a plug-in for it.
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}") or "docker"
ZOO = "dl.fbaipublicfiles.com"
_SECONDS_TO_START = 30
_BASE = "python3,python3-pip,python3-venv,ca-certificates"


class Engine:
    """dockerd with everything it keeps in one folder.

    It sets up no network of its own, so nothing of the machine's firewall and routes changes; containers use the
    machine's.

    Attributes:
        host: Its address, for DOCKER_HOST.
    """

    def __init__(self, folder: Path, host: str = "") -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = host or f"unix://{folder / 'docker.sock'}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._folder.mkdir(parents=True)
        # `--gpus` is accepted where dockerd finds this program; there is no GPU behind it.
        hook = self._folder / "bin" / "nvidia-container-runtime-hook"
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
        command: list[str | Path] = [
            "dockerd", "--data-root", self._folder / "data", "--exec-root", self._folder / "exec",
            "--pidfile", self._folder / "pid", "--host", self.host, "--bridge", "none", "--iptables=false",
            # Nothing in common with an engine that the machine may have.
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
        raise RuntimeError(f"dockerd does not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Ends it with all its containers, and removes everything it has left."""
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
        for each in reversed([mount for mount in mounts if mount.startswith(str(self._folder))]):
            subprocess.run(["umount", "--lazy", each], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            print(f"Not all of {self._folder} could be removed: containers' files may still be in use.")

    def docker(
        self, *arguments: str, timeout: float = 600, check: bool = False, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the docker client with some arguments."""
        return subprocess.run(
            [DOCKER, *arguments], env=os.environ | {"DOCKER_HOST": self.host} | variables,
            capture_output=True, text=True, check=check, timeout=timeout,
        )  # fmt: skip

    def build(self, folder: Path, tag: str, *options: str) -> None:
        """Builds an image, and shows what comes out."""
        # To another host's name, the build would begin anew: so it is always there, for the one test that needs it.
        network = ("--network", "host", "--add-host", f"{ZOO}:127.0.0.1")
        command = [DOCKER, "build", "--progress", "plain", *network, "--tag", tag, *options, str(folder)]
        environment = os.environ | {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        subprocess.run(command, env=environment, check=True, timeout=900)


def make_base(engine: Engine, folder: Path, more_authorities: bytes) -> str:
    """Makes a base image out of Debian's packages, as the official ones cannot be had everywhere.

    Args:
        engine: That it is made for.
        folder: For temporary files.
        more_authorities: Certificates to trust, besides those that this machine trusts, in PEM.

    Returns:
        Its name.
    """
    context = folder / "base"
    context.mkdir()
    rootfs = context / "rootfs.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_BASE}", "bookworm", str(rootfs)]
    subprocess.run(command, check=True, timeout=600)
    bundle = context / "ca-certificates.crt"
    bundle.write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes() + more_authorities)
    (context / "Dockerfile").write_text(
        "FROM scratch\n"
        "ADD rootfs.tar /\n"
        f"COPY ca-certificates.crt {_BUNDLE}\n"
        f"ENV SSL_CERT_FILE={_BUNDLE} PIP_CERT={_BUNDLE} REQUESTS_CA_BUNDLE={_BUNDLE}\n"
    )
    engine.build(context, "coralpick-base")
    shutil.rmtree(context)
    return "coralpick-base"


_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
