"""Problems: only the first are listed, and long values are cut."""

from pathlib import Path

import pytest

from job.errors import SettingsError
from tests.external import coco, in_file, problems, read


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    content = coco()
    content["annotations"] = [content["annotations"][0] | {"score": number} for number in range(2, 12)]
    with pytest.raises(SettingsError) as caught:
        read(in_file(tmp_path, content))
    *listed, rest = caught.value.problems
    where = f"CORAL_PREDICTIONS, {tmp_path}/predictions.json: image 'z.jpg' has the score"
    assert [each.partition(", which")[0] for each in listed] == [f"{where} {score}" for score in (2, 3, 4)]
    assert rest == "CORAL_PREDICTIONS: more problems found before reading ended: 7."


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][0]["bbox"] = ["x" * 1000]
    assert len(problems(in_file(tmp_path, content))) < 400
