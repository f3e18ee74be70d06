"""Class names, and CORAL_CLASSES that contradicts them."""

from pathlib import Path

from tests.external import NAMES, coco, in_file, in_folder, in_parquet, parquet, problems, read


def test_coral_classes_must_match(tmp_path: Path) -> None:
    path = in_file(tmp_path, coco())
    assert read(path, NAMES).class_names == NAMES
    assert "its classes are 'person, bottle, toothbrush', but CORAL_CLASSES is 'a, b'. Remove" in problems(
        path, ("a", "b")
    )
    assert "Remove CORAL_CLASSES" in problems(in_parquet(tmp_path, parquet(), list(NAMES)), NAMES[::-1])
    assert "Remove CORAL_CLASSES" in problems(in_folder(tmp_path, {}), NAMES[:2])
