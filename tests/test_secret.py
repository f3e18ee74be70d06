"""What is hidden in logs: the credentials of all stores, wherever they come from."""

from pathlib import Path

import boto3
import pytest

from job import secret
from job.storage.s3_fast import _Credentials


@pytest.fixture(autouse=True)
def nothing_is_hidden_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret, "_seen", set())


@pytest.mark.parametrize(
    ("name", "value", "said", "shown"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalr/XUtn+FEMI", "key wJalr/XUtn+FEMI", "key ***"),
        ("AWS_SECRET_ACCESS_KEY", "wJalr/XUtn+FEMI", "key=wJalr%2FXUtn%2BFEMI", "key=***"),
        ("AWS_SESSION_TOKEN", "FwoGZXIvYXdz", "token FwoGZXIvYXdz", "token ***"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token", "token container-token", "token ***"),
        ("AWS_SSE_CUSTOMER_KEY_BASE64", "c2VjcmV0LWtleQ==", "key c2VjcmV0LWtleQ==", "key ***"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "YWNjb3VudC1rZXk=", "key YWNjb3VudC1rZXk=", "key ***"),
        ("AZURE_STORAGE_SAS_TOKEN", "?sv=2025-01-05&sig=aB%2FcD123%3D", "?sig=aB%2FcD123%3D&x=1", "?sig=***&x=1"),
        ("AZURE_STORAGE_SAS_TOKEN", "?sv=2025-01-05&sig=aB%2FcD123%3D", "signature aB/cD123=", "signature ***"),
        ("AZURE_STORAGE_SAS_KEY", "sv=2025-01-05&sig=short/sig", "sig=short/sig", "sig=***"),
        ("AZURE_CLIENT_SECRET", "client~secret", "secret client~secret", "secret ***"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=acme;AccountKey=YWNj/w==", "key YWNj/w==", "key ***"),
        ("IDENTITY_HEADER", "0123456789ABCDEF", "header 0123456789ABCDEF", "header ***"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", '{"private_key": "--KEY--\\nMIIE="}', "key --KEY--\nMIIE=", "key ***"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", '{"private_key": "--KEY--\\nMIIE="}', "key --KEY--\\nMIIE=", "key ***"),
        ("HTTPS_PROXY", "http://user:pr0xy-pass@proxy:3128", "user:pr0xy-pass@proxy", "user:***@proxy"),
        ("AWS_ENDPOINT_URL", "https://key:s3cret-pass@minio", "s3cret-pass", "***"),
        ("CORAL_WEIGHTS", "https://a/b.pth?X-Amz-Date=1&X-Amz-Signature=0123abcd", "for 0123abcd", "for ***"),
        ("CORAL_WEIGHTS", "https://a/b.pth?se=2026&sig=0123abcd", "for 0123abcd", "for ***"),
    ],
)
def test_credentials_in_variables_are_hidden(name: str, value: str, said: str, shown: str) -> None:
    secret.hide_environment({name: value})
    assert secret.hide_secrets(value) != value
    assert secret.hide_secrets(f"A library quotes the {said}!") == f"A library quotes the {shown}!"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SSE_KMS_KEY_ID", "alias/frames"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "acmeimages"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json"),
        ("CORAL_INPUT", "s3://bucket/frames"),
        ("CORAL_INPUT", "https://acme/a:b/c@d.jpg"),
        ("LIGHTLY_TOKEN_FILE", "/var/run/secrets/lightly"),
    ],
)
def test_what_helps_to_find_a_fault_is_shown(name: str, value: str) -> None:
    secret.hide_environment({name: value})
    assert secret.hide_secrets(f"{name}={value}") == f"{name}={value}"


def test_credentials_of_a_profile_are_hidden_when_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    lines = ("[default]", "aws_access_key_id = AKIDPROFILE", "aws_secret_access_key = profile/secret")
    (tmp_path / "credentials").write_text("\n".join((*lines, "aws_session_token = profile-token")))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert _Credentials(boto3.Session())()["access_key_id"] == "AKIDPROFILE"
    assert secret.hide_secrets("AKIDPROFILE, profile/secret, profile-token") == "AKIDPROFILE, ***, ***"
