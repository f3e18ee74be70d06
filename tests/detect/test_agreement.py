"""Shards on machines of two kinds: they compute in one precision, or the later one says why it cannot."""

from pathlib import Path

import pytest
import torch

from job.detect import agreement, gpu
from job.detect.agreement import KEY, agree_on_precision
from job.errors import ServiceUnavailable
from job.storage.local import LocalFolder
from tests.conftest import settings


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
    assert agree(LocalFolder(str(tmp_path / "a")), monkeypatch, "cpu", "fp32") == "fp32"
    assert agree(LocalFolder(str(tmp_path / "a")), monkeypatch, "cuda", "fp16") == "fp32"
    assert agree(LocalFolder(str(tmp_path / "b")), monkeypatch, "cuda", "fp16") == "fp16"
    with pytest.raises(ServiceUnavailable, match="The other shards of this run compute in fp16 on GPUs") as error:
        agree(LocalFolder(str(tmp_path / "b")), monkeypatch, "cpu", "fp32")
    assert error.value.exit_code == 69


def test_of_two_first_shards_the_last_to_write_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))

    def other_shard(seconds: float) -> None:
        output.write(KEY, b'{"precision": "fp32"}')

    monkeypatch.setattr("time.sleep", other_shard)
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp32"


def test_a_setting_is_not_discussed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    assert agree(output, monkeypatch, "cuda", "fp16", precision="bf16") == "bf16"
    assert not (tmp_path / KEY).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"precision": 1}', b'{"precision": "fp8"}'])
def test_a_damaged_choice_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    output = LocalFolder(str(tmp_path))
    output.write(KEY, content)
    assert agree(output, monkeypatch, "cuda", "fp16") == "fp16"
    assert agree(output, monkeypatch, "cuda", "fp32") == "fp16"
