"""The manifests: held to Kubernetes' own schemas and to what these miss, and run by the real kubectl."""

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from job.cli import cli
from job.preflight import output
from job.settings import knobs
from tests.conftest import ROOT
from tests.standins.kubernetes_server import KubernetesServer, Object
from tests.standins.schedulers import NEVER, error_classes

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")

OVERLAYS = ("base", "sharded", "jobset", "eks", "gke")
VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
# To try again cannot help.
FINAL = {error.exit_code for error in NEVER}


def render(folder: Path) -> list[Object]:
    """What kustomize makes of a folder."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    return {each: render(ROOT / "k8s" / each) for each in OVERLAYS}


def jobs(objects: list[Object]) -> dict[str, Object]:
    """All Jobs by name, those within a JobSet included."""
    found = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Job"}
    for each in objects:
        if each["kind"] == "JobSet":
            for step in each["spec"]["replicatedJobs"]:
                identity = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": step["name"]}}
                found[step["name"]] = identity | {"spec": step["template"]["spec"]}
    return found


def container(job: Object) -> Object:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def variables(job: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(job)["env"]}


def readme_example(folder: Path) -> Object:
    """Writes the kustomization that k8s/README.md shows into a folder, and returns what is in it."""
    text = (ROOT / "k8s" / "README.md").read_text()
    (shown,) = re.findall(r"^    resources: .*\n(?:    .*\n)+", text, re.MULTILINE)
    example: Object = yaml.safe_load(textwrap.dedent(shown))
    assert example["resources"] == ["../coralpick/k8s/sharded"]
    folder.mkdir()
    example["resources"] = [os.path.relpath(ROOT / "k8s" / "sharded", folder)]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(example))
    return example


def all_jobs(rendered: dict[str, list[Object]]) -> Iterator[tuple[str, Object]]:
    for overlay, objects in rendered.items():
        found = jobs(objects)
        assert found
        yield from ((f"{overlay}/{name}", job) for name, job in found.items())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_every_version_accept_them(rendered: dict[str, list[Object]], version: str) -> None:
    for objects in rendered.values():
        known = [each for each in objects if each["kind"] != "JobSet"]  # no schema of Kubernetes itself
        for each in (*known, *jobs(objects).values()):
            kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_would_notice(rendered: dict[str, list[Object]]) -> None:
    (job,) = jobs(rendered["base"]).values()
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["template"]["spec"]["containers"][0]["arg"] = ["run"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_exit_codes_are_those_of_the_job(rendered: dict[str, list[Object]]) -> None:
    assert {each.exit_code for each in error_classes()} > FINAL
    for name, job in all_jobs(rendered):
        disruption, final = job["spec"]["podFailurePolicy"]["rules"]
        assert disruption == {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        }, name
        assert final["action"] == "FailJob", name
        assert final["onExitCodes"] == {
            "containerName": container(job)["name"], "operator": "In", "values": sorted(FINAL),
        }, name  # fmt: skip
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never", name  # else the policy is refused


def test_what_the_schemas_do_not_see(rendered: dict[str, list[Object]]) -> None:
    for name, job in all_jobs(rendered):
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        indexed = name.endswith("predict")
        assert spec.get("completionMode", "NonIndexed") == ("Indexed" if indexed else "NonIndexed"), name
        assert spec["podReplacementPolicy"] == "Failed", name  # the only one that podFailurePolicy allows
        assert spec["activeDeadlineSeconds"] >= 3600, name
        # A JobSet would make a Job again that has cleaned itself up.
        assert ("ttlSecondsAfterFinished" in spec) is not name.startswith("jobset"), name
        assert pod["terminationGracePeriodSeconds"] > 2 * output.PATIENCE.grace, name
        for limit in ("backoffLimit", "backoffLimitPerIndex"):
            assert spec.get(limit, 0) >= 0, name
        if indexed:
            assert spec["completions"] == spec["parallelism"] > 1, name
            assert spec["backoffLimitPerIndex"] > 0, name
            assert 0 <= spec["maxFailedIndexes"] <= spec["completions"], name
            assert "backoffLimit" not in spec, name
        else:
            assert spec["backoffLimit"] > 0, name
            assert not {"backoffLimitPerIndex", "maxFailedIndexes", "completions", "parallelism"} & set(spec), name


def test_it_asks_for_one_gpu_and_insists_on_it(rendered: dict[str, list[Object]]) -> None:
    for name, job in all_jobs(rendered):
        resources = container(job)["resources"]
        gpus = [resources[each].get("nvidia.com/gpu") for each in ("requests", "limits")]
        if name.endswith("select"):
            assert gpus == [None, None], name
            assert (variables(job)["CORAL_DEVICE"], variables(job)["CORAL_REQUIRE_GPU"]) == ("cpu", "0"), name
            assert variables(job)["NVIDIA_VISIBLE_DEVICES"] == "void", name
            assert "tolerations" not in job["spec"]["template"]["spec"], name
        else:
            assert gpus == [1, 1], name
            assert all(type(each) is int for each in gpus), name
            assert variables(job)["CORAL_REQUIRE_GPU"] == "1", name
        assert resources["requests"] == {"cpu": "4"} | resources["limits"], name


def test_it_has_no_rights(rendered: dict[str, list[Object]]) -> None:
    for name, job in all_jobs(rendered):
        pod = job["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name  # a service called coral would set CORAL_ variables
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        context = pod["securityContext"]
        assert context["runAsNonRoot"], name
        assert context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container(job)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert [each["mountPath"] for each in container(job)["volumeMounts"]] == ["/tmp", "/etc/coralpick"], name
        assert [set(each) for each in pod["volumes"]] == [{"name", "emptyDir"}, {"name", "secret"}], name


def test_secrets_are_also_files_that_only_the_job_reads(rendered: dict[str, list[Object]]) -> None:
    """In octal, 0440: the user is root's, the group is that of fsGroup."""
    for name, job in all_jobs(rendered):
        pod = job["spec"]["template"]["spec"]
        _, volume = pod["volumes"]
        assert volume["secret"] == {"secretName": "coralpick-files", "optional": True, "defaultMode": 0o440}, name
        assert pod["securityContext"]["fsGroup"] == 10001, name
        assert container(job)["volumeMounts"][1]["readOnly"] is True, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_is_of_all_pods_and_closes_all_but_three_ports(tmp_path: Path, overlay: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "curation",
        "resources": [os.path.relpath(ROOT / "k8s" / overlay, folder)],
        "components": [os.path.relpath(ROOT / "k8s" / "network-policy", folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    objects = render(folder)
    (policy,) = (each for each in objects if each["kind"] == "NetworkPolicy")
    for version in VERSIONS:
        kubernetes_validate.validate(policy, version, strict=True)
    assert policy["metadata"]["namespace"] == "curation"
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    (rule,) = spec["egress"]
    assert set(rule) == {"ports"}
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP"), (443, "TCP")}
    for name, job in jobs(objects).items():
        labels = job["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items(), name


def test_secrets_are_only_referred_to(rendered: dict[str, list[Object]]) -> None:
    for overlay, objects in rendered.items():
        assert "Secret" not in {each["kind"] for each in objects}, overlay
        for name, job in jobs(objects).items():
            assert {"secretRef": {"name": "coralpick-secrets", "optional": True}} in container(job)["envFrom"], name


def test_they_set_what_the_job_knows(rendered: dict[str, list[Object]]) -> None:
    known = {knob.env for _, knob in knobs()}
    for name, job in all_jobs(rendered):
        assert set(variables(job)) <= known | {"NVIDIA_VISIBLE_DEVICES"}, name
        (command,) = container(job)["args"]
        assert command in cli.commands, name
    for overlay, objects in rendered.items():
        (given,) = (each["data"] for each in objects if each["kind"] == "ConfigMap")
        assert set(given) <= known, overlay
        assert {"CORAL_INPUT", "CORAL_OUTPUT"} <= set(given), overlay


def test_all_names_lead_somewhere(rendered: dict[str, list[Object]]) -> None:
    for overlay, objects in rendered.items():
        there = {(each["kind"], each["metadata"]["name"]) for each in objects}
        for name, job in jobs(objects).items():
            assert ("ServiceAccount", job["spec"]["template"]["spec"]["serviceAccountName"]) in there, (overlay, name)
            (settings,) = (each["configMapRef"]["name"] for each in container(job)["envFrom"] if "configMapRef" in each)
            assert ("ConfigMap", settings) in there, (overlay, name)
            # A hash, so that no pod of a run sees the settings of another.
            assert re.fullmatch(r"coralpick-settings-\w{10}", settings), (overlay, name)


def test_the_jobset_runs_the_same_two_steps(rendered: dict[str, list[Object]]) -> None:
    (jobset,) = (each for each in rendered["jobset"] if each["kind"] == "JobSet")
    first, second = jobset["spec"]["replicatedJobs"]
    assert (first["name"], second["name"]) == ("predict", "select")
    assert second["dependsOn"] == [{"name": "predict", "status": "Complete"}]
    assert "dependsOn" not in first
    assert not [each for each in rendered["jobset"] if each["kind"] == "Job"]
    sharded = jobs(rendered["sharded"])
    for step in (first, second):
        spec = sharded[f"coralpick-{step['name']}"]["spec"]
        left_out = {name: value for name, value in spec.items() if name not in ("suspend", "ttlSecondsAfterFinished")}
        assert step["template"]["spec"] == left_out


def test_the_clouds_know_the_service_account(rendered: dict[str, list[Object]]) -> None:
    annotations = {"eks": "eks.amazonaws.com/role-arn", "gke": "iam.gke.io/gcp-service-account"}
    for overlay, annotation in annotations.items():
        (account,) = (each for each in rendered[overlay] if each["kind"] == "ServiceAccount")
        assert annotation in account["metadata"]["annotations"]


@pytest.mark.parametrize("steps", ["base", "sharded"])
def test_only_jobs_with_a_gpu_go_to_googles_gpus(tmp_path: Path, steps: str) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    place = tmp_path / "k8s" / "gke" / "kustomization.yaml"
    place.write_text(place.read_text().replace("  - ../base\n", f"  - ../{steps}\n"))
    found = jobs(render(place.parent))
    selectors = {name: job["spec"]["template"]["spec"].get("nodeSelector", {}) for name, job in found.items()}
    with_gpu = {name for name, selector in selectors.items() if "cloud.google.com/gke-accelerator" in selector}
    assert with_gpu == {"coralpick" if steps == "base" else "coralpick-predict"}
    assert len(found) == (1 if steps == "base" else 2)


def test_the_number_of_shards_stands_in_one_place(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    place = tmp_path / "k8s" / "steps" / "predict" / "indexed.yaml"
    text, changes = re.subn(r"completions: \d+", "completions: 7", place.read_text())
    assert changes == 1
    place.write_text(text)
    for overlay in ("sharded", "jobset"):
        found = {name.removeprefix("coralpick-"): job for name, job in jobs(render(tmp_path / "k8s" / overlay)).items()}
        assert (found["predict"]["spec"]["completions"], found["predict"]["spec"]["parallelism"]) == (7, 7)
        assert [variables(found[step])["CORAL_SHARD_COUNT"] for step in ("predict", "select")] == ["7", "7"]


def kubectl_environment(server: KubernetesServer, folder: Path) -> dict[str, str]:
    """Leads kubectl to a server, and keeps its caches away from the user's home."""
    context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [context]}
    config["clusters"] = [{"name": "test", "cluster": {"server": server.endpoint}}]
    config["users"] = [{"name": "test", "user": {}}]
    (folder / "kubeconfig").write_text(json.dumps(config))
    return os.environ | {"KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}


def run_script(
    server: KubernetesServer, folder: Path, *arguments: str, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """k8s/run.sh with the real kubectl."""
    return subprocess.run(
        [ROOT / "k8s" / "run.sh", *arguments], env=kubectl_environment(server, folder),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def test_make_k8s_run_selects_when_all_shards_are_through(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: None).running() as server:
        done = run_script(server, tmp_path, "sharded")
        assert done.returncode == 0, done.stderr
        assert "All Jobs have completed" in done.stdout
        assert [each["metadata"]["name"] for each in server.started] == ["coralpick-predict", "coralpick-select"]
        again = run_script(server, tmp_path, "sharded")  # with Jobs that are there, and cannot be changed
        assert again.returncode == 0, again.stderr
        assert len(server.started) == 4
        waited = run_script(server, tmp_path, "--wait", "sharded")
        assert waited.returncode == 0, waited.stderr
        assert len(server.started) == 4


def test_make_k8s_run_says_what_failed_and_goes_no_further(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: "PodFailurePolicy").running() as server:
        done = run_script(server, tmp_path, "sharded")
        assert done.returncode == 1
        assert "job/coralpick-predict has failed. PodFailurePolicy: see the pods" in done.stderr
        assert [each["metadata"]["name"] for each in server.started] == ["coralpick-predict"]


def test_a_folder_of_ones_own_in_a_namespace(tmp_path: Path) -> None:
    """The example of the manual."""
    example = readme_example(tmp_path / "own")
    with KubernetesServer(lambda job: None).running() as server:
        for _ in range(2):
            done = run_script(server, tmp_path, str(tmp_path / "own"))
            assert done.returncode == 0, done.stderr
        (settings,) = (each for key, each in server.objects.items() if key[1] == "configmaps")
    assert {key[0] for key in server.objects} == {example["namespace"]} == {"curation"}
    assert len(server.started) == 4
    (image,) = {container(each)["image"] for each in server.started}
    assert image == "ghcr.io/acme/coralpick:0.1.0"
    assert settings["data"]["CORAL_INPUT"] == "s3://acme/frames"


def test_make_k8s_run_outlives_a_hiccup_of_the_cluster(tmp_path: Path) -> None:
    def slowly(job: Object) -> None:
        time.sleep(1)  # for it to be waited for
        server.hiccups = 4
        time.sleep(2)

    with KubernetesServer(slowly).running() as server:
        done = run_script(server, tmp_path, "base")
    assert done.returncode == 0, done.stderr
    assert server.hiccups == 0


def test_make_k8s_run_notices_a_job_that_is_gone(tmp_path: Path) -> None:
    def deleted(job: Object) -> None:
        time.sleep(1)
        server.objects.pop(("default", "jobs", "coralpick"))
        time.sleep(60)

    with KubernetesServer(deleted).running() as server:
        done = run_script(server, tmp_path, "base")
    assert done.returncode == 1
    assert "job/coralpick no longer exists" in done.stderr


def patient(folder: Path, **seconds: int) -> Path:
    """A copy of the manifests whose run.sh has other waiting times."""
    shutil.copytree(ROOT / "k8s", folder / "k8s")
    script = folder / "k8s" / "run.sh"
    for name, value in seconds.items():
        text, count = re.subn(rf"\b{name}=\d+", f"{name}={value}", script.read_text())
        assert count == 1, name
        script.write_text(text)
    return script


def start_script(script: Path, server: KubernetesServer, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts run.sh as a shell does: in a process group of its own that Ctrl-C can reach."""
    return subprocess.Popen(
        [script, *arguments], env=kubectl_environment(server, folder), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_ctrl_c_ends_the_wait_at_once(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: time.sleep(60)).running() as server:
        process = start_script(ROOT / "k8s" / "run.sh", server, tmp_path, "base")
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)  # until it waits
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=10)
        assert process.returncode == 130, text
        assert "Interrupted. Jobs that exist keep running" in text and "--wait base" in text
        assert ("default", "jobs", "coralpick") in server.objects


@pytest.mark.parametrize("kind", ["Job", "Pod"])
def test_it_says_why_no_pod_can_start(tmp_path: Path, kind: str) -> None:
    script = patient(tmp_path, max_idle=1, report_interval=2)

    def stuck(job: Object) -> None:
        for name, kind_of, text in (("1", "Pod", "of another run"), ("2", kind, "exceeded quota: q")):
            owner = {"kind": kind_of, "name": "coralpick" if kind_of == "Job" else f"coralpick-{name}"}
            identity = {"name": name, "namespace": "default", "creationTimestamp": f"2026-01-0{name}T00:00:00Z"}
            event = {"kind": "Event", "apiVersion": "v1", "metadata": identity, "type": "Warning", "message": text}
            if text == "of another run":
                owner["name"] = "other-1"
            server.objects["default", "events", name] = event | {"involvedObject": owner}
        time.sleep(12)

    with KubernetesServer(stuck).running() as server:
        process = start_script(script, server, tmp_path, "base")
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    name = "Job/coralpick" if kind == "Job" else "Pod/coralpick-2"
    assert f"No pod of job/coralpick is running. {name}: exceeded quota: q" in text


def test_a_refused_overlay_deletes_nothing(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: time.sleep(60)).running() as server:
        process = start_script(ROOT / "k8s" / "run.sh", server, tmp_path, "sharded")
        while len(server.objects) < 4:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        before = dict(server.objects)
        server.refusals = {"coralpick-predict": "Invalid"}
        done = run_script(server, tmp_path, "sharded")
        assert done.returncode == 1
        assert "must be different" in done.stderr and "nothing was changed" in done.stderr
        assert server.objects == before


def test_waiting_without_a_job_or_without_the_right(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: None).running() as server:
        done = run_script(server, tmp_path, "--wait", "base", timeout=20)
        assert done.returncode == 64
        assert "There is no job/coralpick to wait for" in done.stderr and "run.sh base" in done.stderr
        assert run_script(server, tmp_path, "base").returncode == 0
        server.forbidden = {"PATCH"}
        done = run_script(server, tmp_path, "--wait", "base", timeout=20)
        assert done.returncode == 1 and "Forbidden" in done.stderr


def test_an_outage_is_measured_in_seconds(tmp_path: Path) -> None:
    script = patient(tmp_path, max_outage=6)

    def vanish(job: Object) -> None:
        time.sleep(1)
        server.hiccups = 10**6
        time.sleep(60)

    with KubernetesServer(vanish).running() as server:
        process = start_script(script, server, tmp_path, "base")
        while not server.hiccups:
            time.sleep(0.1)
        start = time.monotonic()
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 75 and "Cannot reach the cluster" in text
        assert 4 < time.monotonic() - start < 25


def test_the_log_is_of_the_pods_that_failed_last(tmp_path: Path) -> None:
    def fail(job: Object) -> str:
        for number, phase in enumerate(["Failed", "Succeeded", "Failed", "Failed", "Failed"], start=1):
            identity = {"name": f"pod-{number}", "namespace": "default", "labels": {"job-name": "coralpick"}}
            identity["creationTimestamp"] = f"2026-01-0{6 - number}T00:00:00Z"
            pod = {"kind": "Pod", "apiVersion": "v1", "metadata": identity, "status": {"phase": phase}}
            pod["spec"] = {"containers": [{"name": "coralpick"}]}
            server.objects["default", "pods", f"pod-{number}"] = pod
        return "BackoffLimitExceeded"

    with KubernetesServer(fail).running() as server:
        done = run_script(server, tmp_path, "base")
    assert done.returncode == 1
    assert re.findall(r"the last line of (pod-\d)", done.stderr) == ["pod-4", "pod-3", "pod-1"]


def test_make_k8s_run_knows_what_has_no_jobs(tmp_path: Path) -> None:
    with KubernetesServer(lambda job: None).running() as server:
        done = run_script(server, tmp_path, "jobset")
    assert done.returncode == 64
    assert "kubectl apply -k" in done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_make_k8s_render_prints_them(overlay: str) -> None:
    command = ["make", "--silent", "--no-print-directory", "k8s-render", f"OVERLAY={overlay}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert jobs(list(yaml.safe_load_all(printed)))
