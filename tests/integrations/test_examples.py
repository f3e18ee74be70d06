"""The files of docs/integrations/, each read by its own tool. Nothing is sent to a cluster or a cloud."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import yaml

from job.settings import knobs
from tests.conftest import ROOT
from tests.integrations.tools import EXAMPLES, find_tool, run_python

ARGO = """
import sys, yaml
from hera.workflows.models import Workflow
text = open(sys.argv[1]).read()
written = yaml.safe_load(text)
read = yaml.safe_load(Workflow.model_validate(written).model_dump_json(by_alias=True, exclude_unset=True))
assert read == written, (read, written)  # an unknown field would be gone
inputs = set()
names = {template["name"] for template in written["spec"]["templates"]}
for template in written["spec"]["templates"]:
    for step in (step for steps in template.get("steps", []) for step in steps):
        assert step["template"] in names
print(len(names))
"""
AIRFLOW = """
import runpy, sys
dag = runpy.run_path(sys.argv[1])["dag"]
dag.validate()
(task,) = dag.tasks
pod = task.build_pod_request_obj()
(container,) = pod.spec.containers
print(task.retries, container.args, container.resources.limits["nvidia.com/gpu"], pod.spec.security_context)
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: none, user: {}}]
"""
SKYPILOT = """
import sys
from sky import Task
task = Task.from_yaml(sys.argv[1])
print(len(task.resources), all(choice.use_spot for choice in task.resources), sorted(task.envs))
"""


def test_settings_in_the_examples_exist() -> None:
    variables = {knob.env for _, knob in knobs()}
    for file in EXAMPLES.iterdir():
        mentioned = set(re.findall(r"\bCORAL_[A-Z_]+", file.read_text()))
        assert {"CORAL_INPUT", "CORAL_OUTPUT"} <= mentioned <= variables


def test_every_example_is_in_the_manual() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text()
    assert all(f"](integrations/{file.name})" in page for file in EXAMPLES.iterdir())


def test_github_accepts_the_workflow() -> None:
    folder = find_tool("github") / "check_jsonschema" / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "github-workflows.json").read_text())
    workflow = yaml.safe_load((EXAMPLES / "github-action.yml").read_text())
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads the key as a boolean
    jsonschema.validate(workflow, schema)


def test_argo_accepts_the_workflow(tmp_path: Path) -> None:
    assert run_python("argo", tmp_path, "-c", ARGO, EXAMPLES / "argo-workflow.yaml") == "2\n"


def test_airflow_loads_the_dag_and_makes_a_pod(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(KUBECONFIG)  # of no cluster: building a pod asks none
    printed = run_python("airflow", tmp_path, "-c", AIRFLOW, EXAMPLES / "airflow_dag.py").splitlines()[-1]
    assert printed.startswith("3 ['run'] 1 ")


def test_skypilot_accepts_the_task(tmp_path: Path) -> None:
    printed = run_python("skypilot", tmp_path, "-c", SKYPILOT, EXAMPLES / "skypilot.yaml").splitlines()[-1]
    assert printed == "3 True ['CORAL_INPUT', 'CORAL_N_SAMPLES', 'CORAL_OUTPUT', 'CORAL_REQUIRE_GPU']"


def test_dvc_plans_the_stage(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "dvc.yaml", tmp_path)
    (tmp_path / "frames").mkdir()
    (tmp_path / "labelled.txt").touch()
    (tmp_path / "params.yaml").write_text("picks: 10\n")
    run_python("dvc", tmp_path, "-m", "dvc", "init", "--no-scm", "--quiet")
    printed = run_python("dvc", tmp_path, "-m", "dvc", "repro", "--dry")
    assert "Running stage 'pick'" in printed
    assert "-e CORAL_N_SAMPLES=10 coralpick" in printed
