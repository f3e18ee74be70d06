"""The manifests with the built image: kubectl and the containers are real, the cluster is a stand-in."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.conftest import Pool
from tests.image.engine import Engine
from tests.k8s.test_manifests import readme_example, run_script
from tests.standins.kubernetes_server import KubernetesServer, Object

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


class Kubelet:
    """Runs the pods of a Job as containers, with the rights, variables and volumes of the manifest."""

    def __init__(self, engine: Engine, secrets: dict[str, str]) -> None:
        self.engine, self.secrets = engine, secrets
        self.server: KubernetesServer | None = None
        self.logs: list[str] = []

    def options(self, pod: Object) -> list[str]:
        (container,) = pod["containers"]
        context, rights = pod["securityContext"], container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert not rights["allowPrivilegeEscalation"]
        options = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}", "--group-add", str(context["fsGroup"])]
        options += ["--read-only", "--security-opt", "no-new-privileges", "--memory", "4g"]
        options += [part for name in rights["capabilities"]["drop"] for part in ("--cap-drop", name)]
        options += [part for mount in container["volumeMounts"] for part in ("--tmpfs", mount["mountPath"])]
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            options += ["--gpus", str(container["resources"]["limits"]["nvidia.com/gpu"])]
        return options

    def variables(self, job: Object) -> dict[str, str]:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert self.server
        variables: dict[str, str] = {}
        for source in container["envFrom"]:
            if "configMapRef" in source:
                variables |= self.server.objects[
                    job["metadata"]["namespace"], "configmaps", source["configMapRef"]["name"]
                ]["data"]
            else:
                variables |= self.secrets
        return variables | {entry["name"]: entry["value"] for entry in container["env"]}

    def carry_out(self, job: Object) -> str | None:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        indices: list[int | None] = list(range(job["spec"]["completions"])) if "completions" in job["spec"] else [None]
        codes: list[int] = []

        def run(index: int | None) -> None:
            variables = self.variables(job)
            if index is not None:
                variables["JOB_COMPLETION_INDEX"] = str(index)
            given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
            command = ("run", "--rm", "--network", "host", *self.options(pod), *given, container["image"])
            done = self.engine.docker(*command, *container["args"])
            self.logs.append(done.stderr)
            codes.append(done.returncode)

        threads = [threading.Thread(target=run, args=(index,)) for index in indices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return f"exit codes {codes}" if any(codes) else None


def overlay(folder: Path, image: str, settings: dict[str, str], **container: Any) -> Path:
    """An overlay in a user's own folder, as k8s/README.md shows it."""
    pod = {"spec": {"template": {"spec": {"containers": [{"name": "coralpick", **container}]}}}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "coralpick-predict"}} | pod
    own = readme_example(folder)
    own["images"] = [own["images"][0] | {"newName": image, "newTag": "latest"}]
    own["configMapGenerator"][0]["literals"] = [f"{name}={value}" for name, value in settings.items()]
    own["patches"] = [{"patch": yaml.safe_dump(job)}]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return folder


def settings(pool: Pool, output: str) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of the ConfigMap and those of the Secret."""
    secrets = {name: value for name, value in pool.variables.items() if "KEY" in name}
    plain = {name: value for name, value in pool.variables.items() if name not in secrets}
    return plain | {"CORAL_OUTPUT": pool.uri(output)}, secrets


def test_shards_then_select_by_the_manifests(engine: Engine, image: str, pool: Pool, tmp_path: Path) -> None:
    plain, secrets = settings(pool, "out/kubernetes")
    # This machine has no GPU. That is the only change to the manifests.
    folder = overlay(tmp_path / "own", image, plain, env=[{"name": "CORAL_REQUIRE_GPU", "value": "0"}])
    kubelet = Kubelet(engine, secrets)
    with KubernetesServer(kubelet.carry_out).running() as server:
        kubelet.server = server
        done = run_script(server, tmp_path, str(folder), timeout=300)
    assert done.returncode == 0, (done.stderr, kubelet.logs)
    assert [job["metadata"]["name"] for job in server.started] == ["coralpick-predict", "coralpick-select"]
    assert pool.read("out/kubernetes/selected.txt") == pool.read("expected/frames/selected.txt")


def test_a_node_without_a_gpu_fails_the_run(engine: Engine, image: str, pool: Pool, tmp_path: Path) -> None:
    plain, secrets = settings(pool, "out/kubernetes-cpu")
    kubelet = Kubelet(engine, secrets)
    with KubernetesServer(kubelet.carry_out).running() as server:
        kubelet.server = server
        done = run_script(server, tmp_path, str(overlay(tmp_path / "own", image, plain)), timeout=300)
    assert done.returncode == 1
    assert "exit codes [69, 69, 69, 69]" in done.stderr
    assert all("There is no NVIDIA GPU" in log for log in kubelet.logs)
