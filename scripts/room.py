"""The manual's table of the images that a selection may have with the shipped manifests."""

import re
from pathlib import Path

from job import forecast

ROOT = Path(__file__).resolve().parent.parent
_GIB, _MIB = 1 << 30, 1 << 20


def list_places() -> list[tuple[str, int, int, bool]]:
    """Lists the manifests with the bytes of memory and of /tmp that they ask for, and whether /tmp is in memory."""
    pod, aws, google = (_read(name) for name in ("k8s/job/job.yaml", "cloud/aws/batch.yaml", "cloud/google/job.json"))
    return [
        ("Kubernetes", _find(pod, r"memory: (\d+)Gi") * _GIB, _find(pod, r"sizeLimit: (\d+)Gi") * _GIB, False),
        (
            "AWS Batch",
            _find(aws, r'MEMORY, Value: "(\d+)"') * _MIB,
            _find(aws, r"ContainerPath: /tmp, Size: (\d+)") * _MIB,
            True,
        ),
        (
            "Google Cloud Batch",
            _find(google, r'"memoryMib": (\d+)') * _MIB,
            _find(google, r":rw,[^ ]*size=(\d+)g") * _GIB,
            True,
        ),
    ]


def room_table() -> str:
    """The table."""
    lines = ["| | memory | `/tmp` | images |", "|---|---|---|---|"]
    for name, memory, room, in_memory in list_places():
        images = forecast.count_images_that_fit(memory, room, temporary_in_memory=in_memory)
        where = " (in memory)" if in_memory else ""
        lines.append(f"| {name} | {memory / 1e9:.1f} GB | {room / 1e9:.1f} GB{where} | {images / 1e6:.1f} million |")
    return "\n".join(lines)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _find(text: str, pattern: str) -> int:
    """The first number that a pattern finds.

    Raises:
        ValueError: If there is none.
    """
    if (match := re.search(pattern, text)) is None:
        raise ValueError(f"no {pattern!r} in the manifest: change the pattern in scripts/room.py")
    return int(match[1])
