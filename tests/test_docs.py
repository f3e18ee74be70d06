"""The manual: its commands run, its messages are the job's, its names exist."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from demo import fetch
from job.settings import choices, knobs
from scripts import docs
from tests.conftest import DEMO_YAML, ROOT, S3, clean_environment
from tests.external import own_coco
from tests.standins.servers import client

MANUAL = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*MANUAL, ROOT / "CONTRIBUTING.md", ROOT / "k8s" / "README.md", ROOT / "cloud" / "README.md"]


USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[str]:
    """The shell commands of a page, block by block, continued lines joined."""
    found = re.findall(r"^```bash\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in found]


def commands() -> list[str]:
    """Every different command of the README and of docs/ that starts the job itself, with the variables it needs."""
    lines: list[str] = []
    for block in (block for page in USER_PAGES for block in blocks(page)):
        if block.startswith("for "):
            continue  # of several GPUs
        exported = re.match(r"export (\w+='[^']*')\n", block)
        prefix = f"{exported[1]} " if exported else ""
        lines += [prefix + line.partition("  #")[0].strip() for line in block.split("\n") if " entrypoint.py" in line]
    return sorted(set(lines))


@pytest.fixture
def place(few_frames: Path, tmp_path: Path, seaweedfs: S3) -> dict[str, Path]:
    """What stands for /data and for the buckets of the manual."""
    for file in sorted(few_frames.rglob("*.jpg")):
        key = f"frames/{file.relative_to(few_frames)}"
        client(seaweedfs.endpoint).put_object(Bucket=seaweedfs.bucket, Key=f"manual/{key}", Body=file.read_bytes())
    (tmp_path / "data").mkdir()
    few_frames.rename(tmp_path / "data" / "frames")
    return {"/data/": tmp_path / "data"}


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_manual_run(command: str, place: dict[str, Path], tmp_path: Path, seaweedfs: S3) -> None:
    if "LIGHTLY_TOKEN" in command:
        pytest.skip("the platform is tested with its stand-in: tests/e2e/test_lightly_job.py")
    if "CORAL_MLFLOW" in command:
        pytest.skip("MLflow has tests of its own: tests/integrations/test_mlflow.py")
    frames = place["/data/"] / "frames"
    names = sorted(str(file.relative_to(frames)) for file in frames.rglob("*.jpg"))
    predictions = own_coco()
    for image, name in zip(predictions["images"], names, strict=True):
        image["file_name"] = name
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    rows = "".join(f"{name},{number % 3},{number / 7:.3f},1\n" for number, name in enumerate(names))
    (tmp_path / "embeddings.csv").write_text("file_name,x,y,z\n" + rows)
    changes = {
        "/data/": f"{place['/data/']}/",
        "s3://bucket/": seaweedfs.uri("manual/"),
        "predictions.json": str(tmp_path / "predictions.json"),
        "embeddings.parquet": str(tmp_path / "embeddings.csv"),
    }
    for shown, real in changes.items():
        command = command.replace(shown, real)
    ours = clean_environment(CORAL_MODEL=DEMO_YAML, CORAL_WEIGHTS=fetch.WEIGHTS, CORAL_N_SAMPLES=3)
    if "CORAL_INPUT" not in command:
        ours |= {"CORAL_INPUT": str(place["/data/"] / "frames"), "CORAL_OUTPUT": str(tmp_path / "out")}
    if "CORAL_LABELLED" in command:  # a second round needs the first
        first = {"CORAL_INPUT": str(frames), "CORAL_OUTPUT": f"{place['/data/']}/picks"}
        subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=ours | first, check=True, timeout=300)
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=ours, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    if "CORAL_LABELLED" in command:
        rounds = [(place["/data/"] / name / "selected.txt").read_text().split() for name in ("picks", "picks-2")]
        assert len(rounds[0]) == len(rounds[1]) == 3
        assert not set(rounds[0]) & set(rounds[1])


def test_the_manual_has_commands() -> None:
    assert len(commands()) >= 8


def test_the_readme_is_short() -> None:
    """What does not fit is in docs/, so that the first page is read to its end."""
    assert (ROOT / "README.md").stat().st_size <= 12_000


def test_the_readme_shows_the_report_in_a_small_picture() -> None:
    picture = ROOT / "docs" / "report.webp"
    assert f"](docs/{picture.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert picture.read_bytes()[8:12] == b"WEBP" and picture.stat().st_size < 200_000


def test_the_contents_name_every_page() -> None:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in contents} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_the_manual_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^|    )make ([a-z][a-z0-9-]*)", text, flags=re.MULTILINE)) <= targets
    variables = {knob.env for _, knob in knobs()}
    # Those of a family, as in `CORAL_SHARD_*`, and what is given to the clouds' scripts.
    mentioned = set(re.findall(r"\bCORAL_[A-Z_]*[A-Z]\b(?![_*])", text))
    assert mentioned <= variables, mentioned - variables
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / link).exists(), link


def test_tables_in_the_manual_are_current() -> None:
    tables: set[str] = set()
    for page in docs.list_pages():
        text = page.read_text(encoding="utf-8")
        assert docs.update(text) == text, f"{page.name} is outdated: run `make docs`"
        assert not re.search(r"\b[A-Z]+_TABLE\b|\bTODO\b", text)
        tables.update(docs.find_tables(text))
    assert tables == docs.TABLES.keys()


def test_a_table_of_the_manual_needs_a_known_name_and_an_end() -> None:
    begin = "<!-- outputs: written by make docs -->\n"
    with pytest.raises(ValueError, match="has no end"):
        docs.update(begin + "| file |\n")
    with pytest.raises(ValueError, match="no table 'other': use settings"):
        docs.update("<!-- other: written by make docs -->\n<!-- end of other -->\n")


def test_paths_in_the_contributing_guide_exist() -> None:
    paths = re.findall(r"`(?:job|tests)/[^`]*`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path.strip("`")).exists()] == []


def texts() -> list[str]:
    """Every text in the job's code, with {} where values go."""
    found = []
    for file in (ROOT / "job").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = (each.value if isinstance(each, ast.Constant) else "{}" for each in node.values)
                found.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_in_the_manual_are_the_jobs() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(told) > 10
    known = texts()
    assert [each for each in told if not any(each in text for text in known)] == []


def test_columns_and_fields_are_those_in_the_manual(few_frames: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    fetch.fetch()
    folder = shutil.copytree(few_frames, tmp_path / "with video")
    shutil.copy(fetch.VIDEO, folder / "bikes.mp4")
    ours = clean_environment(
        CORAL_INPUT=folder, CORAL_FRAMES="every:100", CORAL_OUTPUT=tmp_path / "out",
        CORAL_MODEL=DEMO_YAML, CORAL_WEIGHTS=fetch.WEIGHTS,
        CORAL_N_SAMPLES=3,
    )  # fmt: skip
    command = [sys.executable, "entrypoint.py"]
    subprocess.run(command, cwd=ROOT, env=ours, check=True, timeout=300, capture_output=True)
    tables = page[page.index("## images.parquet") : page.index("## selected.csv")]
    told = [
        name
        for line in re.findall(r"^\| (`.*?) \|", tables, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    ]
    expected = set(pq.read_schema(tmp_path / "out" / "images.parquet").names) - set(choices.SCORES)
    assert set(told) - {"_weighted"} == expected
    assert len(choices.SCORES) == 9
    picks = page[page.index("## selected.csv") : page.index("## run.json")]
    first: dict[str, Any] = json.loads((tmp_path / "out" / "selected.jsonl").read_text().splitlines()[0])
    assert all(f"`{name}`" in picks for name in first)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert all(f"`{name}`" in page[page.index("## run.json") :] for name in run)
