"""Shards on machines of two kinds: they compute alike, or the later one says why it cannot. None ends with 64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from job import parts
from job.detect import agreement, gpu
from job.detect.agreement import (
    BATCH_SIZE_KEY,
    PRECISION_KEY,
    agree_on_batch_size,
    agree_on_precision,
    confirm_precision,
)
from job.errors import ServiceUnavailable, TryAgain
from job.parts import checked
from job.storage.local import LocalFolder
from tests.conftest import settings
from tests.parts.test_part import MADE_WITH, row


def agree(output: LocalFolder, monkeypatch: pytest.MonkeyPatch, device: str, own: str, precision: str = "auto") -> str:
    """What a machine agrees to. No test has such GPUs, so their choice of device and precision is pretended."""
    monkeypatch.setattr(gpu, "choose", lambda settings: (torch.device(device), None))
    monkeypatch.setattr(agreement, "choose_precision", lambda settings, device: own)
    return agree_on_precision(settings(precision=precision), output)


def test_later_shards_follow_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp16"
    assert agree(output, monkeypatch, "cuda:1", "fp32") == "fp16"
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp16"


def test_a_cpu_follows_in_fp32_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        outputs.append(LocalFolder(str(tmp_path / name)))
    assert agree(outputs[0], monkeypatch, "cpu", "fp32") == "fp32"
    assert agree(outputs[0], monkeypatch, "cuda", "fp16") == "fp32"
    assert agree(outputs[1], monkeypatch, "cuda", "fp16") == "fp16"
    with pytest.raises(ServiceUnavailable, match="The other shards of this run compute in fp16 on GPUs") as error:
        agree(outputs[1], monkeypatch, "cpu", "fp32")
    assert error.value.exit_code == 69


def test_of_two_first_shards_the_last_to_write_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))

    def other_shard(seconds: float) -> None:
        output.write(PRECISION_KEY, checked.dump_json({"precision": "fp32"}))

    monkeypatch.setattr("time.sleep", other_shard)
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp32"


def test_a_setting_is_not_discussed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    assert agree(output, monkeypatch, "cuda", "fp16", precision="bf16") == "bf16"
    assert not (tmp_path / PRECISION_KEY).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", checked.dump_json([]), checked.dump_json({"precision": "fp8"})])
def test_a_damaged_choice_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    output = LocalFolder(str(tmp_path))
    output.write(PRECISION_KEY, content)
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp16"
    assert agree(output, monkeypatch, "cuda", "fp32") == "fp16"


@pytest.mark.parametrize("damaged", [False, True])
def test_parts_that_are_there_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """Those of a run that had CORAL_PRECISION set. Otherwise `auto` would end with 64 on a GPU of another kind."""
    output = LocalFolder(str(tmp_path))
    if damaged:
        output.write("parts/part-0.parquet", b"PAR1")
    parts.write(output, [row("a.jpg")], replace(MADE_WITH, precision="bf16"))
    assert agree(output, monkeypatch, "cuda", "fp16") == "bf16"
    assert checked.load_json(output.read(PRECISION_KEY)) == {"precision": "bf16"}


def test_a_choice_that_was_overwritten_late_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp16"
    confirm_precision(settings(), output, "fp16")
    output.write(PRECISION_KEY, checked.dump_json({"precision": "fp32"}))
    confirm_precision(settings(precision="fp16"), output, "fp16")
    with pytest.raises(TryAgain, match="computes in fp32, this one in fp16: start this one again") as error:
        confirm_precision(settings(), output, "fp16")
    assert error.value.exit_code == 75
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp32"


def test_batch_sizes_of_gpus_are_those_of_the_first(tmp_path: Path) -> None:
    output, gpu_device = LocalFolder(str(tmp_path)), torch.device("cuda")
    assert agree_on_batch_size(output, torch.device("cpu"), lambda: 1) == 1
    assert agree_on_batch_size(output, gpu_device, lambda: 16) == 16  # it does not follow the CPU
    assert agree_on_batch_size(output, gpu_device, lambda: 64) == 16
    assert agree_on_batch_size(output, torch.device("cpu"), lambda: 1) == 1


@pytest.mark.parametrize("content", [b"", b"[]", *(checked.dump_json({"batch_size": size}) for size in (0, True, "8"))])
def test_a_damaged_batch_size_is_measured_again(tmp_path: Path, content: bytes) -> None:
    output = LocalFolder(str(tmp_path))
    output.write(BATCH_SIZE_KEY, content)
    assert agree_on_batch_size(output, torch.device("cuda"), lambda: 32) == 32
    assert checked.load_json(output.read(BATCH_SIZE_KEY)) == {"batch_size": 32}
