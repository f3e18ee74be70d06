"""k8s/ray: held to the schema of KubeRay, whose pods to that of Kubernetes. No test runs it in a cluster."""

import copy
import json
import re
import shutil
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from job.preflight import output
from job.settings import knobs
from tests.conftest import DATA, ROOT
from tests.k8s.test_manifests import VERSIONS, render
from tests.standins.kubernetes_server import Object

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    return render(ROOT / "k8s" / "ray")


def one(rendered: list[Object], kind: str) -> Any:
    (found,) = (each for each in rendered if each["kind"] == kind)
    return found


@pytest.fixture(scope="module")
def spec(rendered: list[Object]) -> Any:
    return one(rendered, "RayJob")["spec"]


@pytest.fixture(scope="module")
def pods(spec: Any) -> dict[str, Any]:
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"]["spec"], "worker": workers["template"]["spec"]}


def refuse_unknown(schema: Any) -> None:
    """An unknown field is an error, as in the strict validation of kubectl."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
        for value in schema.values():
            refuse_unknown(value)
    elif isinstance(schema, list):
        for value in schema:
            refuse_unknown(value)


def find_faults(spec: Any) -> list[str]:
    schema = json.loads((DATA / "kuberay_rayjob_spec.json").read_text())
    refuse_unknown(schema)
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(spec)]


def test_kuberay_accepts_it(spec: Any) -> None:
    assert find_faults(spec) == []


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [((), "entry_point", "x"), (("rayClusterSpec", "authOptions"), "mode", "tokens"), ((), "backoffLimit", "3")],
)
def test_the_schema_would_notice(spec: Any, place: tuple[str, ...], name: str, value: Any) -> None:
    wrong = part = copy.deepcopy(spec)
    for step in place:
        part = part[step]
    part[name] = value
    assert len(find_faults(wrong)) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_its_pods_and_other_objects(
    rendered: list[Object], pods: dict[str, Any], version: str
) -> None:
    for name, pod in pods.items():
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
        kubernetes_validate.validate(whole, version, strict=True)
    for each in rendered:
        if each["kind"] != "RayJob":
            kubernetes_validate.validate(each, version, strict=True)


def test_the_pods_are_those_of_a_job(pods: dict[str, Any]) -> None:
    """Locked down alike; they differ in what their place needs."""
    (job,) = (each for each in render(ROOT / "k8s" / "base") if each["kind"] == "Job")
    expected = job["spec"]["template"]["spec"]
    assert pods["worker"]["automountServiceAccountToken"] is False
    for name, pod in pods.items():
        differing = {"containers", *(("tolerations", "automountServiceAccountToken") if name == "head" else ())}
        assert {key: value for key, value in pod.items() if key not in differing} == {
            key: value for key, value in expected.items() if key not in differing
        }
        (own,), (container,) = pod["containers"], expected["containers"]
        for field in ("image", "envFrom", "securityContext", "volumeMounts"):
            assert own[field] == container[field], (name, field)
        assert not {"command", "args"} & set(own), "KubeRay would put them before its own"
    assert pods["worker"]["containers"][0]["resources"] == expected["containers"][0]["resources"]
    assert pods["worker"]["terminationGracePeriodSeconds"] > 2 * output.PATIENCE.grace


def test_the_head_has_no_gpu_and_a_worker_has_one(pods: dict[str, Any]) -> None:
    gpus = {name: pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for name, pod in pods.items()}
    assert gpus == {"head": None, "worker": 1}
    assert "tolerations" not in pods["head"]
    known = {knob.env for _, knob in knobs()}
    for pod in pods.values():
        names = {variable["name"] for variable in pod["containers"][0]["env"]}
        assert names <= known | {"NVIDIA_VISIBLE_DEVICES"}


def test_the_cluster_grows_to_the_workers_that_the_job_asks_for(spec: Any, pods: dict[str, Any]) -> None:
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    variables = {each["name"]: each["value"] for each in pods["head"]["containers"][0]["env"]}
    assert variables["CORAL_WORKERS"] == str(workers["maxReplicas"])
    assert workers["minReplicas"] == workers["replicas"] == 0


def test_strangers_cannot_run_code_in_it(spec: Any) -> None:
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_its_version_of_ray_is_the_installed_one(spec: Any) -> None:
    (pinned,) = re.findall(r"^ray(?:\[\w+\])?==([\d.]+)", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    assert spec["rayClusterSpec"]["rayVersion"] == pinned


def test_all_names_lead_somewhere(rendered: list[Object], pods: dict[str, Any]) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    for pod in pods.values():
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        (settings,) = (
            each["configMapRef"]["name"] for each in pod["containers"][0]["envFrom"] if "configMapRef" in each
        )
        assert ("ConfigMap", settings) in there and re.fullmatch(r"coralpick-settings-\w{10}", settings)
    binding = one(rendered, "RoleBinding")
    assert ("Role", binding["roleRef"]["name"]) in there
    assert [(each["kind"], each["name"]) for each in binding["subjects"]] == [("ServiceAccount", "coralpick")]


def test_kueue_can_queue_it(spec: Any) -> None:
    """As its documentation asks: no cluster that stays, and at most eight kinds of pods."""
    text = (ROOT / "k8s" / "README.md").read_text()
    (shown,) = re.findall(r"^ +kueue\.x-k8s\.io/queue-name: .*$", text, re.MULTILINE)
    assert yaml.safe_load(shown)
    assert spec["shutdownAfterJobFinishes"] is True
    assert len(spec["rayClusterSpec"]["workerGroupSpecs"]) <= 7
