"""Settings: precedence, all problems at once, secrets."""

import json
import pickle
from pathlib import Path

import pytest

from job import publish
from job.errors import SettingsError
from job.secret import Secret
from job.settings import Settings, knobs
from job.settings.resolve import as_json, resolve
from job.uris import redact, strip_signature

GIVEN = {"CORAL_INPUT": "/in", "CORAL_OUTPUT": "/out"}


def problems(**environment: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        resolve({}, GIVEN | environment)
    return list(caught.value.problems)


def test_defaults_are_those_of_the_dataclass() -> None:
    assert resolve({}, GIVEN) == Settings(input="/in", output="/out")


def test_a_flag_wins_over_the_environment_and_empty_counts_as_absent() -> None:
    environment = GIVEN | {"CORAL_SEED": "1", "CORAL_N_SAMPLES": "7", "CORAL_LABELLED": ""}
    settings = resolve({"seed": "2", "n_samples": None}, environment)
    assert (settings.seed, settings.n_samples, settings.labelled) == (2, 7, None)


def test_all_problems_are_told_at_once_with_variable_value_and_fix() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({}, {"CORAL_INPUT": "/in", "CORAL_SEED": "-1", "CORAL_STRATEGY": "corall", "CORAL_N_SAMPLE": "5"})
    text = str(caught.value)
    assert caught.value.exit_code == 64
    assert len(caught.value.problems) == 4
    assert "CORAL_OUTPUT is not set" in text
    assert "CORAL_SEED='-1' must be 0 to 4294967295" in text
    assert "CORAL_STRATEGY='corall'" in text and "did you mean coral?" in text
    assert "CORAL_N_SAMPLE is not a setting: did you mean CORAL_N_SAMPLES?" in text


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CORAL_MAX_FAILED", "nan", "0 to 1"),
        ("CORAL_MAX_FAILED", "5%", "0 to 1"),
        ("CORAL_MAX_FAILED", "1.01", "0 to 1"),
        ("CORAL_BATCH_SIZE", "0", "at least 1, or auto"),
        ("CORAL_BATCH_SIZE", "1e3", "at least 1, or auto"),
        ("CORAL_N_SAMPLES", "1.5", "whole number"),
        ("CORAL_SCORE_STRENGTH", "inf", "at least 0"),
        ("CORAL_SSL_BATCH_SIZE", "1", "at least 2"),
        ("CORAL_DEVICE", "gpu", "cuda:N"),
        ("CORAL_PRECISION", "FP16", "fp16"),
        ("CORAL_INPUT", "ftp://bucket/prefix", "s3://, gs:// or az://"),
        ("CORAL_INPUT", "s3://", "must name a bucket"),
        ("CORAL_SHARD_INDEX", "-1", "at least 0"),
        ("CORAL_ALLOW_MISSING", "maybe", "1 or 0"),
        ("CORAL_CLASSES", "a,b,a", "distinct"),
        ("CORAL_PREVIOUS", ",", "several with commas between them"),
        ("CORAL_PREVIOUS", "/a,ftp://b", "s3://, gs:// or az://"),
        ("CORAL_EMBEDDING", "/a.pkl", ".npz or .npy"),
        ("CORAL_EXPORT_MIN_SCORE", "30%", "0 to 1"),
        ("CORAL_IMAGES_AT", "ftp://host/frames", "s3://, gs:// or az://"),
        ("CORAL_SHARD_COUNT", "10001", "must be 1 to 10000"),
        ("CORAL_WEIGHTS", "http://host/a.pth", "is not encrypted: use an https URL"),
        ("CORAL_WEIGHTS_SHA256", "abc", "64 hexadecimal digits"),
        ("LIGHTLY_SERVER_LOCATION", "http://lightly.host", "is not encrypted, and the token would be sent to it"),
        ("CORAL_EXPORT_CLASSES", "person", "class=name,class=name"),
        ("CORAL_EXPORT_CLASSES", "person=a,person=b", "each class once"),
        ("CORAL_EXPORT_CLASSES", "person=,=b", "class=name,class=name"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(variable: str, value: str, says: str) -> None:
    (problem,) = problems(**{variable: value})
    assert problem.startswith(f"{variable}={value!r} ")
    assert says in problem


def test_what_needs_no_encryption_and_the_largest_values() -> None:
    ours = {"LIGHTLY_SERVER_LOCATION": "http://127.0.0.1:8/", "CORAL_WEIGHTS": "http://localhost/a.pth"}
    ours |= {"CORAL_SHARD_COUNT": "10000", "CORAL_WEIGHTS_SHA256": "AB" * 32}
    found = resolve({}, GIVEN | ours)
    assert (found.lightly_server, found.weights) == ("http://127.0.0.1:8", "http://localhost/a.pth")
    assert (found.shard_count, found.weights_sha256) == (10_000, "ab" * 32)


def test_the_address_of_the_images_is_a_folder() -> None:
    (problem,) = problems(CORAL_IMAGES_AT="https://host/frames?sig=x")
    assert problem == "CORAL_IMAGES_AT='https://host/frames' must be the address of a folder, without ?, # and @."
    for address in (
        "https://host/frames",
        "http://host/data/local-files/?d=frames",
        "/data/local-files/?d=",
        "s3://b/x",
    ):
        assert resolve({}, GIVEN | {"CORAL_IMAGES_AT": address}).images_at == address


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(SettingsError, match="--part-size='x' must be"):
        resolve({"part_size": "x"}, GIVEN)


WRAPPINGS = [
    ('"{}"', "quotation marks"),
    ("'{}'", "quotation marks"),
    ('"{}"\r', "quotation marks"),
    ("“{}”", "quotation marks"),
    ("{}\r", "line breaks"),
    ("{}\n", "line breaks"),
    (" {}", "blanks"),
    ("{}\t", "blanks"),
    ("\ufeff{}", "blanks"),
]


@pytest.mark.parametrize(("wrapping", "says"), WRAPPINGS)
def test_nothing_may_be_around_any_value(wrapping: str, says: str) -> None:
    valid = GIVEN | {"CORAL_SEED": "1"}
    for _, knob in knobs():
        text = wrapping.format(valid.get(knob.env, "x"))
        with pytest.raises(SettingsError) as caught:
            resolve({}, valid | {knob.env: text})
        (problem,) = [problem for problem in caught.value.problems if says in problem]
        assert problem.startswith(f"{knob.env}={'***' if knob.secret else text!r} has ") and "remove them" in problem
    with pytest.raises(SettingsError, match=f"--output=.* has .*{says}"):
        resolve({"output": wrapping.format("/out")}, GIVEN)


def test_quotation_marks_and_blanks_within_a_value_stay() -> None:
    assert resolve({}, GIVEN | {"CORAL_INPUT": '/my frames/5" disks'}).input == '/my frames/5" disks'
    assert resolve({}, GIVEN | {"CORAL_INPUT": "'"}).input == "'"
    strategy = '[{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}}]\n'  # a block in YAML
    assert resolve({}, GIVEN | {"CORAL_STRATEGY": strategy}).strategy.entries
    assert "quotation marks" in problems(CORAL_STRATEGY=f"'{strategy}'")[0]


def test_service_links_of_kubernetes_are_not_settings() -> None:
    links: dict[str, str] = {}
    for service in ("CORAL", "CORAL_PICK", "CORAL_INPUT"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "80",
            f"{service}_SERVICE_PORT_HTTP": "80",
            f"{service}_PORT": "tcp://10.0.0.1:80",
            f"{service}_PORT_80_TCP": "tcp://10.0.0.1:80",
            f"{service}_PORT_80_TCP_PROTO": "tcp",
            f"{service}_PORT_80_TCP_PORT": "80",
            f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
            f"{service}_PORT_53_UDP": "udp://10.0.0.1:53",
        }
    assert resolve({}, GIVEN | links) == Settings(input="/in", output="/out")
    for name in ("CORAL_PORT", "CORAL_PICK_PORT", "CORAL_PORTS", "CORAL_SERVICE", "CORAL_PORT_80"):
        assert problems(**{name: "80"})[0].startswith(f"{name} is not a setting")


def test_contradictions() -> None:
    assert "CORAL_MIN_SIZE=500 is above CORAL_MAX_SIZE=400" in problems(CORAL_MIN_SIZE="500", CORAL_MAX_SIZE="400")[0]
    assert "contradict each other: remove one" in problems(CORAL_REQUIRE_GPU="1", CORAL_DEVICE="cpu")[0]
    assert "are both '/in/../in'" in problems(CORAL_INPUT="/in/../in", CORAL_OUTPUT="/in")[0]
    of_objects = {"CORAL_STRATEGY": "coral_objects", "CORAL_SCORE_STRENGTH": "1"}
    assert resolve({}, GIVEN | of_objects).score_strength == 1
    for predictions in ("/boxes.json", "none"):
        (without,) = problems(**of_objects, CORAL_PREDICTIONS=predictions)
        assert "predictions from CORAL_PREDICTIONS have no features of boxes: remove CORAL_PREDICTIONS, or" in without
    (same,) = problems(CORAL_OUTPUT="/out/../out", CORAL_PREDICTIONS="/out", CORAL_EMBEDDING="/a.csv")
    assert same.startswith("CORAL_PREDICTIONS and CORAL_OUTPUT are both '/out/../out': set CORAL_OUTPUT to another")
    assert (
        "work with CORAL_STRATEGY=coral or coral_objects only"
        in problems(CORAL_STRATEGY="coreset", CORAL_SCORE_STRENGTH="2")[0]
    )
    assert "the picks of this run replace" in problems(CORAL_LABELLED="/out/", CORAL_OUTPUT="/out")[0]
    assert "all picks would be rejected" in problems(CORAL_REJECTED="/out/", CORAL_OUTPUT="/out")[0]
    platform = problems(CORAL_REJECTED="/no.txt", CORAL_LIGHTLY_SELECT="platform")
    assert any("CORAL_REJECTED works with the job's own selection only" in problem for problem in platform)
    both = problems(CORAL_PREVIOUS="/last", CORAL_PREDICTIONS="/a.json", CORAL_EMBEDDING="/a.csv")
    assert "both provide detections" in both[0]
    (weights,) = problems(CORAL_EMBEDDING_WEIGHTS="/a.pth", CORAL_EMBEDDING="simclr")
    assert "CORAL_EMBEDDING='simclr' is not a model of timm: set CORAL_EMBEDDING=timm:<model>, or remove" in weights


@pytest.mark.parametrize("setting", ["CORAL_LABELLED", "CORAL_INPUT"])
@pytest.mark.parametrize("output", ["s3://bucket/out", "{folder}/out", "{folder}/link"])
@pytest.mark.parametrize("name", [publish.SELECTED_TXT, publish.SELECTED_JSONL, "exports/coco.json", "selected/sub"])
def test_what_the_picks_replace_is_no_input(tmp_path: Path, setting: str, output: str, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    uri = (output if "s3:" in output else str(tmp_path / "out")) + f"/{name}"
    given = {"CORAL_OUTPUT": output.format(folder=tmp_path)}
    (problem,) = problems(**given | {setting: uri})
    assert problem == (
        f"{setting}={uri!r} is in CORAL_OUTPUT, where the picks of this run replace it: copy it to another place, or "
        "set CORAL_OUTPUT to a new folder."
    )
    for other in (uri.replace("/out/", "/out-2/"), uri.replace(name, "labelled.txt")):
        assert resolve({}, GIVEN | given | {setting: other})


@pytest.mark.parametrize("value", ["timm:", "timm:a/b", "timm:hf-hub:a", "timm", "dinov2"])
def test_models_of_embeddings(value: str) -> None:
    assert resolve({}, GIVEN | {"CORAL_EMBEDDING": "timm:resnet50.a1_in1k"}).embedding == "timm:resnet50.a1_in1k"
    (said,) = problems(CORAL_EMBEDDING=value)
    assert said.startswith(f"CORAL_EMBEDDING={value!r} must ") and "timm:" in said


@pytest.mark.parametrize(
    ("predictions", "embedding", "strategy", "expected"),
    [
        (None, "detector", "coral", False),
        ("/a.json", "detector", "coral", True),
        ("/a.json", "detector", "active_learning", False),
        ("/a.json", "simclr", "active_learning", True),
        ("/a.json", "timm:resnet50", "coreset", True),
        ("/a.json", "/a.npz", "coral", False),
        ("none", "detector", "random", True),
        ("none", "/a.csv", "coreset", False),
    ],
)
def test_when_images_are_read_to_embed_them(
    predictions: str | None, embedding: str, strategy: str, expected: bool
) -> None:
    given = {"CORAL_PREDICTIONS": predictions or "", "CORAL_EMBEDDING": embedding, "CORAL_STRATEGY": strategy}
    assert resolve({}, GIVEN | given).embeds_images is expected


def test_several_previous_outputs() -> None:
    assert resolve({}, GIVEN | {"CORAL_PREVIOUS": "/last"}).previous == ("/last",)
    several = resolve({}, GIVEN | {"CORAL_PREVIOUS": "/a, s3://bucket/b,"})
    assert several.previous == ("/a", "s3://bucket/b")
    assert as_json(several)["CORAL_PREVIOUS"] == "/a,s3://bucket/b"
    assert as_json(resolve({}, GIVEN))["CORAL_PREVIOUS"] is None
    assert "CORAL_PREVIOUS and CORAL_OUTPUT are both '/out'" in problems(CORAL_PREVIOUS="/a,/out/")[0]


def test_class_names_from_a_list_or_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "names.txt"
    file.write_text("car\n\ntraffic light\n", encoding="utf-8")
    assert resolve({}, GIVEN | {"CORAL_CLASSES": "car, traffic light"}).classes == ("car", "traffic light")
    assert resolve({}, GIVEN | {"CORAL_CLASSES": str(file)}).classes == ("car", "traffic light")
    many = tuple(f"class number {number}" for number in range(100))  # longer than a file's name may be
    assert resolve({}, GIVEN | {"CORAL_CLASSES": ",".join(many)}).classes == many


def test_run_json_has_the_absolute_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, written in (
        ("frames", str(tmp_path / "frames")),
        ("./lists/../list.txt", str(tmp_path / "list.txt")),
        ("file:///data/frames/", "/data/frames"),
        ("s3://bucket/frames/", "s3://bucket/frames"),
    ):
        settings = resolve({}, GIVEN | {"CORAL_INPUT": given})
        assert as_json(settings)["CORAL_INPUT"] == written
    assert resolve({}, GIVEN | {"CORAL_INPUT": "frames"}).input == "frames"


def test_new_names_of_classes() -> None:
    settings = resolve({}, GIVEN | {"CORAL_EXPORT_CLASSES": "traffic light = signal,car=b=c"})
    assert settings.export_classes == {"traffic light": "signal", "car": "b=c"}
    assert as_json(settings)["CORAL_EXPORT_CLASSES"] == settings.export_classes


TOKEN = GIVEN | {"LIGHTLY_TOKEN": "s3cret", "CORAL_LIGHTLY_DATASET": "set"}


def test_a_secret_is_seen_nowhere() -> None:
    settings = resolve({}, TOKEN)
    assert settings.token is not None and settings.token.value == "s3cret"
    shown = f"{settings} {settings!r} {json.dumps(as_json(settings))} %s" % (settings.lightly_token,)
    assert "s3cret" not in shown and "***" in shown
    with pytest.raises(TypeError):
        pickle.dumps(settings.lightly_token)
    (problem,) = problems(CORAL_LIGHTLY_EXTERNAL_ID="s3cret")
    assert "s3cret" not in problem and "***" in problem


def test_a_secret_has_no_flag() -> None:
    secrets = {knob.env for _, knob in knobs() if knob.secret}
    assert secrets == {"LIGHTLY_TOKEN", "CORAL_LIGHTLY_EXTERNAL_ID"}
    assert all(knob.option is None for _, knob in knobs() if knob.secret)


def test_a_token_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    given = {"LIGHTLY_TOKEN_FILE": str(file), "CORAL_LIGHTLY_DATASET": "set"}
    assert resolve({}, GIVEN | given).token == Secret("s3cret")
    file.write_text(" \n")
    assert "is empty" in problems(**given)[0]
    assert "No such file" in problems(**given | {"LIGHTLY_TOKEN_FILE": str(tmp_path / "none")})[0]


def test_defaults_contradict_no_other_setting() -> None:
    given = {"CORAL_INPUT": "in", "CORAL_OUTPUT": "out"}
    for strategy in ("coreset", "active_learning", "two_stage", "typicality", "random"):
        assert resolve({}, given | {"CORAL_STRATEGY": strategy}).score_strength == 0.5
    platform = {"LIGHTLY_TOKEN": "t", "CORAL_LIGHTLY_DATASET": "set", "CORAL_LIGHTLY_SELECT": "platform"}
    assert str(resolve({}, given | platform).score) == "uncertainty_entropy"  # the platform does not know the default
    assert str(resolve({}, given | platform | {"CORAL_SCORE": "uncertainty_margin"}).score) == "uncertainty_margin"
    assert "supports object_frequency" in problems(**platform, CORAL_SCORE="entropy_sum")[0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"CORAL_LIGHTLY_DATASET": ""}, "CORAL_LIGHTLY_DATASET is not: set it"),
        ({"CORAL_LIGHTLY_DATASET": "ab"}, "at least three letters"),
        ({"CORAL_LIGHTLY_DATASET": "my/set"}, "at least three letters"),
        ({"LIGHTLY_SERVER_LOCATION": "api.lightly.ai"}, "must be an address"),
        ({"LIGHTLY_TOKEN": "", "CORAL_LIGHTLY_SELECT": "platform"}, "needs a token"),
        ({"LIGHTLY_TOKEN": "", "CORAL_LIGHTLY_DATASOURCE": "1", "CORAL_INPUT": "s3://b/x"}, "needs a token"),
        ({"CORAL_LIGHTLY_DATASOURCE": "1"}, "needs a folder on S3"),
        ({"CORAL_LIGHTLY_DATASOURCE": "1", "CORAL_INPUT": "s3://b/x", "CORAL_LIGHTLY_IMAGES": "full"}, "remove one"),
        ({"CORAL_LIGHTLY_SELECT": "platform", "CORAL_SCORE_STRENGTH": "2"}, "supports no strengths"),
        ({"CORAL_LIGHTLY_SELECT": "platform", "CORAL_MIN_SECONDS": "2"}, "knows no times of frames"),
        ({"CORAL_LIGHTLY_ROLE_ARN": "arn:aws:iam::123456789012:role/x"}, "belong together"),
        ({"CORAL_LIGHTLY_ROLE_ARN": "arn:aws:iam::123456789012:role/x"}, "needs CORAL_LIGHTLY_DATASOURCE=1"),
        ({"CORAL_LIGHTLY_ROLE_ARN": "role/x"}, "must look like arn:aws:iam"),
        ({"CORAL_LIGHTLY_IMAGES": "big"}, "must be one of"),
    ],
)
def test_contradictions_about_lightly(changed: dict[str, str], says: str) -> None:
    assert any(says in problem for problem in problems(**TOKEN | changed))


def test_a_url_loses_its_password_and_signature() -> None:
    url = "https://me:s3cret@host/model.pth?X-Amz-Signature=s3cret"
    assert as_json(resolve({}, GIVEN | {"CORAL_WEIGHTS": url}))["CORAL_WEIGHTS"] == "https://host/model.pth"
    assert "s3cret" not in str(
        problems(CORAL_INPUT="s3://key:s3cret@bucket/x", CORAL_WEIGHTS="s3://key:s3cret@b/m.pth")
    )


def test_a_signed_uri_of_a_bucket_is_refused_without_its_signature() -> None:
    for uri in ("az://c/x?sv=1&sig=s3cret", "s3://b/x?X-Amz-Signature=s3cret", "gs://b/x?a=1&x-goog-signature=s3cret"):
        (problem,) = problems(CORAL_INPUT=uri)
        assert "must not be signed" in problem and "s3cret" not in problem
    assert resolve({}, GIVEN | {"CORAL_INPUT": "s3://b/what?why=sigma"}).input == "s3://b/what?why=sigma"
    assert as_json(resolve({}, GIVEN | {"CORAL_INPUT": "s3://b/a?b#c"}))["CORAL_INPUT"] == "s3://b/a?b#c"


def test_what_names_the_file_behind_a_url() -> None:
    assert strip_signature("https://me:pass@host/get?id=A&X-Amz-Signature=1&sig=2") == "https://host/get?id=A"
    assert strip_signature("https://host/get?id=A") != strip_signature("https://host/get?id=B")
    assert redact("/a/path?with#marks") == "/a/path?with#marks"
    assert redact("s3://b/x?y,https://me:pass@h/o?token=a,b") == "s3://b/x?y,https://h/o"
