import numpy as np
import pytest

from job.video import Sampling


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("none", []),
        ("every:4", [0, 4, 8]),
        ("fps:1", [0, 4, 7, 9]),
        ("fps:2", [0, 2, 4, 6, 7, 9]),
        ("FPS:1000 ", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("fps:0.5", [0, 7]),
    ],
)
def test_frames_of_a_clip_with_a_pause(rule: str, expected: list[int]) -> None:
    """Four frames per second; the camera then stops for a second."""
    seconds = 5 + np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2.5, 2.75, 3.0])
    assert Sampling.parse(rule).choose(seconds).tolist() == expected


def test_times_that_are_rounded_to_ticks() -> None:
    """At 90,000 ticks per second, 29.97 frames per second are 3,003 ticks; at 1,000 ticks they are 33 or 34."""
    exact = np.arange(3000) * 1001 / 30000
    rounded = np.floor(exact * 1000) / 1000
    assert np.diff(Sampling.parse("fps:10").choose(exact)).max() <= 4
    assert len(Sampling.parse("fps:1").choose(rounded)) == 101
    assert len(Sampling.parse("fps:1").choose(exact)) == 101


def test_a_video_without_frames_gives_none() -> None:
    assert Sampling.parse("fps:1").choose(np.zeros(0)).tolist() == []


@pytest.mark.parametrize("text", ["", "1", "fps", "fps:0", "every:0", "every:1.5", "fps:-1", "fps:nan", "some"])
def test_other_rules_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fps|needs a number above 0"):
        Sampling.parse(text)


@pytest.mark.parametrize("text", ["all", "none", "every:10", "fps:2", "fps:0.25"])
def test_a_rule_is_shown_as_it_is_written(text: str) -> None:
    assert str(Sampling.parse(text)) == text
