"""The CloudFormation template, evaluated with some parameters, and its resources in moto's Batch."""

import re
from collections.abc import Callable
from typing import Any

import boto3
from cfnlint.decode import decode

from tests.standins.schedulers import CLOUD

TEMPLATE = CLOUD / "aws" / "batch.yaml"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:lightly-AbCdEf"
PARAMETERS: dict[str, Any] = {
    "Image": "registry.example/coralpick@sha256:0",
    "InputBucket": "in-bucket", "InputPrefix": "frames/", "OutputBucket": "out-bucket", "OutputPrefix": "picks/",
    "AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012",
    "AWS::StackName": "coralpick",
}  # fmt: skip


class Template:
    """The CloudFormation template, evaluated with some parameters."""

    def __init__(self, **parameters: Any) -> None:
        self._raw, problems = decode(str(TEMPLATE))
        assert not problems and self._raw
        defaults = {name: each["Default"] for name, each in self._raw["Parameters"].items() if "Default" in each}
        self._values = defaults | PARAMETERS | parameters

    def properties(self, resource: str) -> Any:
        """The properties of a resource, with all functions evaluated."""
        return self._resolved(self._raw["Resources"][resource]["Properties"])

    def output(self, name: str) -> Any:
        """An output, with all functions evaluated."""
        return self._resolved(self._raw["Outputs"][name]["Value"])

    def _resolved(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._resolved(each) for each in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, value), *_ = node.items()
            if name in (functions := self._functions()):
                return functions[name](value)
        resolved = {key: self._resolved(each) for key, each in node.items()}
        return {key: each for key, each in resolved.items() if each is not None}

    def _functions(self) -> dict[str, Callable[[Any], Any]]:
        def substituted(text: str) -> str:
            return re.sub(r"\$\{([\w:]+)\}", lambda found: str(self._reference(found[1])), text)

        def chosen(value: list[Any]) -> Any:
            return self._resolved(value[1] if self._resolved(self._raw["Conditions"][value[0]]) else value[2])

        def split(value: list[Any]) -> list[str]:
            separator, text = self._resolved(value)
            return str(text).split(separator)

        def select(value: list[Any]) -> Any:
            return self._resolved(value[1])[int(value[0])]

        return {
            "Ref": self._reference,
            "Fn::GetAtt": lambda value: f"{value[0]}.{value[1]}" if isinstance(value, list) else value,
            "Fn::Sub": substituted,
            "Fn::If": chosen,
            "Fn::Equals": lambda value: self._resolved(value[0]) == self._resolved(value[1]),
            "Fn::Not": lambda value: not self._resolved(value[0]),
            "Fn::Split": split,
            "Fn::Select": select,
        }

    def _reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return None
        if name in self._values:
            kind = self._raw["Parameters"].get(name, {}).get("Type", "String")
            value = self._values[name]
            return value.split(",") if kind == "CommaDelimitedList" else int(value) if kind == "Number" else value
        arn = "arn:aws:batch:eu-central-1:123456789012"
        return {"Queue": f"{arn}:job-queue/coralpick", "Definition": f"{arn}:job-definition/coralpick:7"}.get(
            name, name
        )


def as_request(node: Any) -> Any:
    """Converts the names of CloudFormation to those of the API."""
    if isinstance(node, list):
        return [as_request(each) for each in node]
    if isinstance(node, dict):
        return {key[0].lower() + key[1:]: as_request(each) for key, each in node.items()}
    return node


def register(client: Any, template: Template) -> None:
    """Creates the resources of the template."""
    role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    ec2 = boto3.client("ec2")
    machines = as_request(template.properties("Machines"))
    del machines["replaceComputeEnvironment"]  # CloudFormation's own
    machines["computeResources"] |= {
        "instanceRole": role.replace("role/", "instance-profile/"),
        "subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    boto3.client("iam").create_instance_profile(InstanceProfileName="role")
    made = client.create_compute_environment(computeEnvironmentName="machines", serviceRole=role, **machines)
    queue = as_request(template.properties("Queue"))
    queue["computeEnvironmentOrder"][0]["computeEnvironment"] = made["computeEnvironmentArn"]
    client.create_job_queue(state="ENABLED", **queue)  # the default on AWS
    client.register_job_definition(**as_request(template.properties("Definition")))


def described(client: Any, *ids: str) -> list[dict[str, Any]]:
    jobs = client.describe_jobs(jobs=list(ids))["jobs"]
    return sorted(jobs, key=lambda each: ids.index(each["jobId"]))
