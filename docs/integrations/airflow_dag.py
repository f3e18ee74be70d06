"""A DAG that picks images once a week, on a Kubernetes cluster with a GPU."""

import datetime

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s

with DAG(
    "coralpick",
    schedule="@weekly",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
) as dag:
    KubernetesPodOperator(
        task_id="pick",
        name="coralpick",
        image="coralpick",
        arguments=["run"],
        env_vars={
            "CORAL_INPUT": "s3://bucket/frames",
            "CORAL_OUTPUT": "s3://bucket/picks/{{ ds }}",
            "CORAL_N_SAMPLES": "100",
            "CORAL_REQUIRE_GPU": "1",
        },
        service_account_name="coralpick",  # may read the input and write the output
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "4", "memory": "16Gi"}, limits={"memory": "16Gi", "nvidia.com/gpu": "1"}
        ),
        security_context={"runAsNonRoot": True, "runAsUser": 10001},
        termination_grace_period=120,
        # Finished work is saved, so a retry of the same day resumes.
        retries=3,
        retry_delay=datetime.timedelta(minutes=5),
    )
