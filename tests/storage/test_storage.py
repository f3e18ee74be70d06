"""The contract of a store, kept by local folders, two S3 servers and obstore; and what is particular to each."""

import datetime
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from job import images, logs, retry
from job.errors import AccessDenied, ServiceUnavailable, SettingsError
from job.retry import Patience
from job.spool import Spool
from job.storage import Entry, Listing, Storage, open_folder, open_source, read_file
from job.storage.base import keep_all
from job.storage.gcs_azure import CloudFolder
from job.storage.local import LocalFolder
from job.storage.s3 import S3Folder
from job.video import Sampling
from tests.conftest import S3
from tests.standins.servers import (
    ADMIN,
    BUCKET,
    LISTER,
    READER,
    Azurite,
    FaultProxy,
    SeaweedFS,
    client,
    make_certificates,
)

ODD = [
    "a b.jpg", "a,b.jpg", "quote'\".jpg", "ä/ö.png", "a\u0308/o\u0308.png", "😀/日本.jpg", ".dot.jpg", ".folder/x.jpg",
    "a+b&c%20.jpg", "p%41.jpg", "#?*[]{}|^`~<>.jpg", "=;:@!$().jpg", "x" * 180 + ".jpg", "a/" * 60 + "deep.jpg",
]  # fmt: skip
CONTROL = ["line\nbreak.jpg", "tab\t.jpg"]
SLASHES = ["a//b.jpg", "/leading.jpg", "./x.jpg", "x/../y.jpg", "back\\slash.jpg"]
# What each store can hold: SeaweedFS merges slashes, and obstore cannot name these at all.
NAMES = {
    "local": [*ODD, *CONTROL, "back\\slash.jpg"],
    "moto": [*ODD, "tab\t.jpg", *SLASHES],
    "seaweedfs": [*ODD, *CONTROL],
    "memory": ODD,
    "azurite": ODD,
}
BRISK = Patience(attempt=2, total=4, first_wait=0.02, longest_wait=0.1)


def memory_folder(store: MemoryStore, folder: str = "pool") -> CloudFolder:
    return CloudFolder(f"memory://{folder}", store, folder, stop=threading.Event(), patience=BRISK)


@pytest.fixture(scope="module")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure's emulator."""
    if not Azurite.PROGRAM.is_file():
        pytest.skip("Azurite is not installed: `make test` does that where there is npm")
    server = Azurite(tmp_path_factory.mktemp("azurite"))
    yield server
    server.kill()


@pytest.fixture
def azurite(azurite_server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that lead to Azure's emulator."""
    for name, value in azurite_server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=list(NAMES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder in each kind of store."""
    kind = request.param
    if kind == "local":
        (tmp_path / "pool").mkdir()
        return LocalFolder(str(tmp_path / "pool"))
    if kind == "memory":
        return memory_folder(MemoryStore())
    if kind == "azurite":
        request.getfixturevalue(kind)
        return open_folder(f"az://{BUCKET}/{tmp_path.name}/pool", patience=BRISK)
    s3: S3 = request.getfixturevalue(kind)
    return open_folder(s3.uri(f"{tmp_path.name}/pool"), patience=BRISK)


def listed(store: Storage, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> dict[str, Entry]:
    return {each.key: each for each in store.list(prefix, keep)}


def test_what_is_written_is_read_listed_and_removed(store: Storage, request: pytest.FixtureRequest) -> None:
    names = NAMES[request.node.callspec.params["store"]]
    for name in ODD:
        store.write(name, name.encode())
    assert sorted(listed(store)) == sorted(ODD)  # on S3 by obstore, and below, since not all are for it, by boto3
    for name in names:
        store.write(name, name.encode())
    found = listed(store)
    assert sorted(found) == sorted(names)
    for name in names:
        entry = found[name]
        assert entry.size == len(name.encode()) and entry.etag
        assert store.read(name) == store.read(name, entry.etag) == name.encode()
        assert store.stat(name) == entry
        assert store.read_range(name, 1, 3) == name.encode()[1:4]
    for name in names:
        store.delete(name)
        store.delete(name)
        assert store.stat(name) is None
    assert not listed(store)


def test_a_temporary_file_is_written_whole(store: Storage) -> None:
    data = os.urandom(6_000_000)
    made = Spool()
    made.file.write(data)
    store.write("large", made)
    assert store.read("large") == data


def test_folders_do_not_reach_into_others(store: Storage) -> None:
    for name in ("a.jpg", "parts/x", "parts/deep/y", "parts-2/z"):
        store.write(name, b"1")
    assert sorted(listed(store, "parts/")) == ["parts/deep/y", "parts/x"]
    assert sorted(listed(store, "parts/", lambda key: "deep" in key)) == ["parts/deep/y"]
    assert not listed(store, "nowhere/")


def test_content_that_changed_since_the_listing_is_not_returned(store: Storage) -> None:
    store.write("a.jpg", b"first")
    before = listed(store)["a.jpg"]
    store.write("a.jpg", b"second")
    after = listed(store)["a.jpg"]
    assert before.etag != after.etag
    with pytest.raises(OSError, match="changed since the listing"):
        store.read("a.jpg", before.etag)
    assert store.read("a.jpg", after.etag) == store.read("a.jpg") == b"second"


def test_what_is_not_there(store: Storage) -> None:
    store.write("other.jpg", b"1")
    assert store.stat("a.jpg") is None
    with pytest.raises(FileNotFoundError):
        store.read("a.jpg")
    with pytest.raises(FileNotFoundError):
        store.read_range("a.jpg", 0, 1)


def test_empty_and_large_files(store: Storage) -> None:
    large = os.urandom(20_000_000)
    store.write("empty", b"")
    store.write("large", large)
    assert store.read("empty") == b""
    assert store.read("large") == large
    assert store.read_range("large", 12_345_678, 1000) == large[12_345_678:12_346_678]


def test_many_files_come_page_by_page(store: Storage) -> None:
    names = [f"{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, b""), names))
    assert sorted(each.key for each in store.list()) == names


@pytest.fixture
def s3_folder(seaweedfs: S3, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Storage]:
    """Opens a folder of the S3 server as one of its identities."""

    def open_as(identity: dict[str, str], uri: str = f"s3://{BUCKET}/rights") -> Storage:
        for name, value in identity.items():
            monkeypatch.setenv(name, value)
        return open_folder(uri, patience=BRISK)

    open_as(ADMIN).write("a.jpg", b"1")
    return open_as


def test_a_missing_permission_is_named(s3_folder: Callable[..., Storage]) -> None:
    reader, lister = s3_folder(READER), s3_folder(LISTER)
    assert reader.read("a.jpg") == b"1"
    with pytest.raises(AccessDenied, match="s3:PutObject is missing"):
        reader.write("b.jpg", b"1")
    with pytest.raises(AccessDenied, match="s3:DeleteObject is missing"):
        reader.delete("a.jpg")
    assert [each.key for each in lister.list()] == ["a.jpg"]
    with pytest.raises(PermissionError, match="s3:GetObject is missing"):
        lister.read("a.jpg")
    with pytest.raises(AccessDenied, match="s3:GetObject is missing"):
        lister.stat("a.jpg")
    with pytest.raises(AccessDenied, match=f"Cannot read s3://{BUCKET}/rights/a.jpg: .*s3:GetObject is missing"):
        read_file(f"s3://{BUCKET}/rights/a.jpg")
    with pytest.raises(AccessDenied, match="s3:ListBucket is missing"):
        list(s3_folder(READER, "s3://another-bucket/x").list())


def test_wrong_credentials_and_buckets_are_named(
    s3_folder: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong, says in (
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "InvalidAccessKeyId"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
    ):
        for operation in (lambda store: list(store.list()), lambda store: store.read("a.jpg")):
            with pytest.raises(AccessDenied, match=f"does not accept the credentials .{says}"):
                operation(s3_folder(ADMIN | wrong))
    with pytest.raises(SettingsError, match="no such bucket"):
        list(s3_folder(ADMIN, "s3://no-such-bucket/x").list())
    with pytest.raises(SettingsError, match="Invalid bucket name"):
        list(s3_folder(ADMIN, "s3://Not_A_Bucket!/x").list())
    for name in ADMIN:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessDenied, match="no usable AWS credentials"):
        list(open_folder("s3://images/x", patience=BRISK).list())
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(SettingsError, match="not-there"):
        open_folder("s3://images/x")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    folder = open_folder("s3://images/x", patience=BRISK)
    for operation in (lambda: list(folder.list()), lambda: folder.read("a"), lambda: folder.write("a", b"")):
        with pytest.raises(ServiceUnavailable, match=r"cannot be reached \(EndpointConnectionError"):
            operation()


def test_credentials_of_a_profile(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(
        f"[profile mine]\naws_access_key_id = a\naws_secret_access_key = b\nregion = eu-west-1\n"
        f"endpoint_url = {moto.endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in (*ADMIN, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = open_folder(f"s3://{BUCKET}/{tmp_path.name}", patience=BRISK)
    folder.write("a", b"1")
    assert folder.read("a") == b"1"


@pytest.fixture
def credential_process(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program as the source of the credentials, which fails while a file exists; returns that file."""
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)  # so close that each request asks
    values = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": expires.isoformat()}
    (tmp_path / "credentials.json").write_text(json.dumps(values))
    down = tmp_path / "down"
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntest ! -e {down} && cat {tmp_path}/credentials.json\n")
    program.chmod(0o755)
    (tmp_path / "config").write_text(
        f"[profile mine]\ncredential_process = {program}\nregion = eu-west-1\nendpoint_url = {moto.endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in (*ADMIN, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return down


def test_a_source_of_credentials_that_fails_for_a_while_is_waited_for(
    credential_process: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_retries", itertools.count(1))  # not all of them are logged
    monkeypatch.setattr(logging.getLogger("botocore.credentials"), "level", logs._LEVELS["botocore"])  # as in a run
    folder = open_folder(f"s3://{BUCKET}/{tmp_path.name}", patience=Patience(attempt=5, total=20, longest_wait=0.2))
    folder.write("a", b"1")
    credential_process.touch()
    threading.Timer(1.5, credential_process.unlink).start()
    folder.write("a", b"2")
    assert folder.read("a") == b"2"
    assert "Request failed, retrying: CredentialRetrievalError" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_a_source_of_credentials_that_fails_for_good(credential_process: Path, tmp_path: Path) -> None:
    patience = Patience(attempt=5, total=1, first_wait=0.02, longest_wait=0.2)
    folder = open_folder(f"s3://{BUCKET}/{tmp_path.name}", patience=patience)
    credential_process.touch()
    start = time.monotonic()
    with pytest.raises(AccessDenied, match=r"no usable AWS credentials \(CredentialRetrievalError"):
        folder.write("a", b"1")  # it has never worked
    assert time.monotonic() - start < 1
    credential_process.unlink()
    folder.write("a", b"1")
    credential_process.touch()
    for operation in (lambda: folder.write("a", b"1"), lambda: list(folder.list()), lambda: folder.stat("a")):
        with pytest.raises(AccessDenied, match=r"no usable AWS credentials \(CredentialRetrievalError"):
            operation()


def headers_of_all_reads(endpoint: str, name: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Of a read and a listing, by obstore and by boto3."""
    proxy = FaultProxy(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    folder = open_folder(f"s3://{BUCKET}/{name}", patience=BRISK)
    assert isinstance(folder, S3Folder)
    assert folder.read("a") == folder._read_by_boto3("a", None) == b"1"
    assert listed(folder).keys() == {each.key for each in folder._list_by_boto3("", keep_all)} == {"a"}
    proxy.close()
    agents = [headers["user-agent"].partition("/")[0] for headers in proxy.headers]
    listing = ["Boto3", "object_store", "Boto3"]  # it begins and ends with a request of boto3
    assert agents == ["object_store", "Boto3", *listing, "Boto3"]
    return proxy.headers


def test_requesters_who_pay(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(moto.endpoint).put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/a", Body=b"1")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    for headers in headers_of_all_reads(moto.endpoint, tmp_path.name, monkeypatch):
        assert headers["x-amz-request-payer"] == "requester" and "authorization" in headers


def test_public_buckets(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = client(moto.endpoint)
    s3.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/a", Body=b"1", ACL="public-read")
    s3.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
    for name in ADMIN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    for headers in headers_of_all_reads(moto.endpoint, tmp_path.name, monkeypatch):
        assert "authorization" not in headers
    s3.put_bucket_acl(Bucket=BUCKET, ACL="private")


def test_certificates_of_ones_own(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    make_certificates(authority, certificate, key)
    proxy = FaultProxy(moto.endpoint, certificate=certificate, key=key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    brief = Patience(attempt=2, total=1, first_wait=0.02)
    with pytest.raises(ServiceUnavailable, match="SSLError"):
        open_folder(moto.uri(tmp_path.name), patience=brief).write("a", b"1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    folder = open_folder(moto.uri(tmp_path.name), patience=BRISK)
    assert isinstance(folder, S3Folder)
    folder.write("a", b"1")
    assert folder._fast.read(f"{tmp_path.name}/a", None) == folder._read_by_boto3("a", None) == b"1"
    proxy.close()


def test_objects_whose_etag_is_no_digest(moto: S3, tmp_path: Path) -> None:
    data = os.urandom(6_000_000)
    s3, name = client(moto.endpoint), f"{tmp_path.name}/multipart.jpg"
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=name)["UploadId"]
    pieces = []
    for number, piece in enumerate((data[: 5 << 20], data[5 << 20 :]), start=1):
        ids = {"Bucket": BUCKET, "Key": name, "UploadId": upload, "PartNumber": number}
        pieces.append({"ETag": s3.upload_part(Body=piece, **ids)["ETag"], "PartNumber": number})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=name, UploadId=upload, MultipartUpload={"Parts": pieces})
    s3.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/kms.jpg", Body=data, ServerSideEncryption="aws:kms")
    folder = open_folder(moto.uri(tmp_path.name), patience=BRISK)
    entries = listed(folder)
    assert "-2" in entries["multipart.jpg"].etag
    for entry in entries.values():
        assert folder.read(entry.key, entry.etag) == folder.read(entry.key) == data


def test_markers_of_folders_are_told_by_their_slash() -> None:
    """obstore drops it: an empty object without an extension is offered as a marker, any other one as a file."""
    folder = memory_folder(MemoryStore())
    for name, data in (("a", b""), ("a/b.jpg", b"1"), ("empty.jpg", b""), ("c", b"1"), ("v1.0/d", b"")):
        folder.write(name, data)
    offered: list[str] = []

    def keep(key: str) -> bool:
        offered.append(key)
        return True

    assert sorted(entry.key for entry in folder.list(keep=keep)) == ["a", "a/b.jpg", "c", "empty.jpg", "v1.0/d"]
    assert sorted(offered) == ["a/", "a/b.jpg", "c", "empty.jpg", "v1.0/d/"]


def test_a_marker_of_a_folder_that_is_named_like_an_image(moto: S3, tmp_path: Path) -> None:
    folder = open_folder(moto.uri(tmp_path.name), patience=BRISK)
    folder.write("a.jpg", b"an image")
    folder.write("a.jpg/", b"")
    found = listed(folder)
    assert sorted(found) == ["a.jpg", "a.jpg/"]
    assert folder.read("a.jpg", found["a.jpg"].etag) == b"an image" and folder.read("a.jpg/") == b""


def test_empty_objects_do_not_send_the_listing_to_boto3(
    moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(moto.uri(tmp_path.name), patience=BRISK)
    names = [f"{number:04d}.jpg" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.write(name, b"1"), names))
    empty = ["", "0000.jpg/", "0500.jpg", "deep/"]
    for name in empty:
        client(moto.endpoint).put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{name}", Body=b"")
    proxy = FaultProxy(moto.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    seen = [entry.key for entry in open_folder(moto.uri(tmp_path.name), patience=BRISK).list()]
    proxy.close()
    assert sorted(seen) == sorted({*names, *empty})
    agents = [headers["user-agent"].partition("/")[0] for headers in proxy.headers]
    assert agents.count("object_store") == 2  # both pages
    # The first and the last are about the whole listing. Others: an object, or the marker of a folder? One is surely a
    # marker.
    assert agents.count("Boto3") == 2 + 1 + 2 * 3


def test_many_empty_objects_are_listed_by_boto3(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from job.storage import s3

    monkeypatch.setattr(s3, "_MAX_EMPTY", 3)
    folder = open_folder(moto.uri(tmp_path.name), patience=BRISK)
    names = [f"{number}.txt" for number in range(6)]
    for name in names:
        folder.write(name, b"")
    proxy = FaultProxy(moto.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    assert sorted(listed(open_folder(moto.uri(tmp_path.name), patience=BRISK))) == names
    proxy.close()
    assert len(proxy.headers) == 1 + 1 + 2 * 3 + 1  # the first asks whether the server's answers are listings


def test_a_write_larger_than_one_request(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from job.storage import s3

    monkeypatch.setattr(s3, "_MAX_REQUEST", 6 << 20)  # the limit of real ones is 5 GB
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    folder, data = open_folder(moto.uri(tmp_path.name), patience=BRISK), os.urandom(13_000_000)
    folder.write("large", data)
    assert folder.read("large") == data and "-" in listed(folder)["large"].etag
    made = Spool()
    made.file.write(data)
    folder.write("spooled", made)
    assert folder.read("spooled") == data and "-" in listed(folder)["spooled"].etag


def test_obstore_names_that_it_cannot_handle_are_told() -> None:
    with pytest.raises(SettingsError, match="a name that obstore cannot handle"):
        memory_folder(MemoryStore()).write("a//b", b"1")


def test_without_obstore_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from job.storage import gcs_azure

    monkeypatch.setattr(gcs_azure, "obstore", None)
    for uri in ("gs://bucket/x", "az://container/x"):
        with pytest.raises(SettingsError, match="needs the package obstore"):
            open_folder(uri)


def test_google_and_azure_are_opened_with_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    assert open_folder("az://container/x/").uri == "az://container/x"
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(SettingsError, match="az://container cannot be used"):
        open_folder("az://container/x")


@pytest.mark.usefixtures("azurite")
def test_azure_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no such bucket"):
        list(open_folder("az://nowhere/x", patience=BRISK).list())
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    folder = open_folder(f"az://{BUCKET}/x", patience=BRISK)
    for operation in (lambda: list(folder.list()), lambda: folder.write("a", b"1"), lambda: folder.delete("a")):
        with pytest.raises(AccessDenied, match=f"az://{BUCKET}/x: permission denied"):
            operation()
    with pytest.raises(PermissionError):
        folder.read("a")


@pytest.mark.usefixtures("azurite")
def test_azure_has_no_such_container() -> None:
    folder = open_folder("az://nowhere/x", patience=BRISK)
    with pytest.raises(SettingsError, match="no such bucket"):
        folder.write("a", b"1")


def test_a_list_of_files_in_any_place(moto: S3, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("a.jpg", "b c.jpg", "line\nbreak.jpg"):
        (here / name).write_bytes(name.encode())
    s3 = client(moto.endpoint)
    s3.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/z.jpg", Body=b"z")
    remote = moto.uri(f"{tmp_path.name}/z.jpg")
    lines = ["here/a.jpg", f"{here}/b c.jpg", '"here/line\\nbreak.jpg"', remote, "here/gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "list.txt"), threading.Event(), Sampling("all"))
    found = {each.key: each for each in source.list()}
    assert list(found) == ["here/a.jpg", f"{here}/b c.jpg", "here/line\nbreak.jpg", remote, "here/gone.jpg"]
    assert source.read(remote, found[remote].etag) == b"z"
    assert source.read("here/line\nbreak.jpg", found["here/line\nbreak.jpg"].etag) == b"line\nbreak.jpg"
    assert found["here/a.jpg"].size == 5
    with pytest.raises(FileNotFoundError):
        source.read("here/gone.jpg")

    known = json.dumps({"uri": remote, "etag": "e", "size": 7}) + '\n"a.jpg"\n\n{"uri": "gone.jpg"}\n'
    s3.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/list.jsonl", Body=known)
    s3.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/a.jpg", Body=b"12")
    source = open_source(moto.uri(f"{tmp_path.name}/list.jsonl"), threading.Event(), Sampling("all"))
    entries = list(source.list(keep=lambda key: key != "gone.jpg"))
    assert [(each.key, each.size) for each in entries] == [(remote, 7), ("a.jpg", 2)]
    assert entries[0].etag == "e" and source.read("a.jpg", entries[1].etag) == b"12"


def test_odd_lines_of_a_list_become_rows(moto: S3, tmp_path: Path) -> None:
    odd = ["x" * 300 + ".jpg", "nul\0.jpg", "good.jpg", "folder.jpg"]
    (tmp_path / "good.jpg").write_bytes(b"1")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, odd)))
    source = open_source(str(tmp_path / "list.jsonl"), threading.Event(), Sampling("all"))
    assert [(each.key, each.size) for each in source.list()] == list(zip(odd, (0, 0, 1, 0), strict=True))
    for name in ("x" * 300 + ".jpg", "nul\0.jpg", "folder.jpg"):
        with pytest.raises(OSError):
            source.read(name)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.txt", "a.jpg\nhttps://host/b.jpg?X-Amz-Signature=s3cret\n", "entry 2 must be a path, or begin with s3://"),
        ("l.txt", '"a.jpg\n', "entry 1 is not valid JSON"),
        ("l.jsonl", '"a.jpg"\n{"url": "b"}\n', "entry 2 has no uri"),
        ("l.jsonl", "[1]\n", "entry 1 has no uri"),
        ("l.jsonl", "a.jpg\n", "entry 1 is not valid JSON"),
        ("l.jsonl", '"a.jpg"\n"a.jpg"\n"\\ud800.jpg"\n', "entry 3 has a uri that is not valid Unicode"),
        ("l.txt", 'a.jpg\na.jpg\n\n"b.jpg\n', "entry 3 is not valid JSON"),
        ("l.txt", 'a.jpg\n"\\ud800.jpg"\n', "entry 2 has a uri that is not valid Unicode"),
        ("l.jsonl", '{"uri": "a.jpg", "etag": "x", "size": 1' + "0" * 5000 + "}", "entry 1 is not valid JSON"),
        ("l.jsonl", "[" * 200_000, "entry 1 is nested too deeply"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=says) as caught:
        open_source(str(tmp_path / name), threading.Event(), Sampling("all"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"etag": "\ud800", "size": 5}, {"etag": "e", "size": 10**30}, {"etag": "e", "size": True}, {"size": -1}]
)
def test_an_entry_that_cannot_be_true_is_not_believed(tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1234")
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "a.jpg"} | given))
    listing = Listing.from_entries(open_source(str(tmp_path / "list.jsonl"), threading.Event(), Sampling("all")).list())
    assert [(entry.key, entry.size) for entry in listing] == [("a.jpg", 4)]


def test_the_size_in_a_list_is_not_believed(moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    client(moto.endpoint).put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/a.jpg", Body=bytes(1001))
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    lines = []
    for place in (moto.uri(tmp_path.name), str(tmp_path)):
        entry = open_folder(place).stat("a.jpg")
        assert entry is not None
        lines.append({"uri": f"{place}/a.jpg", "etag": entry.etag, "size": 10})
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_source(str(tmp_path / "list.jsonl"), threading.Event(), Sampling("all"))
    for entry in source.list():
        with pytest.raises(OSError, match="its size is above the limit of 1,000 bytes"):
            source.read(entry.key, entry.etag)


def test_one_file_from_anywhere(moto: S3, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"local")
    client(moto.endpoint).put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/deep/a", Body=b"far")
    assert read_file(str(tmp_path / "a")) == read_file(f"file://{tmp_path}/a") == b"local"
    assert read_file(moto.uri(f"{tmp_path.name}/deep/a")) == b"far"


def test_objects_survive_a_server_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    server = SeaweedFS(tmp_path / "weed")
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    folder = open_folder(f"s3://{BUCKET}/x", patience=Patience(attempt=2, total=60, longest_wait=0.5))
    folder.write("a", b"1" * 100_000)
    server.kill()
    restart = threading.Timer(1.5, server.start)
    restart.start()
    assert folder.read("a") == b"1" * 100_000  # it waits for the server
    restart.join()
    server.kill()
