"""What is said of a pool's redundancy, and when the job warns."""

import pytest

from job.publish import redundancy
from job.select.views import Views
from tests.conftest import settings

FRAMES = Views(2000, 288.4, 0.4634, 211, [(1, 0.01, 0.008), (100, 0.4634, 0.327), (200, None, 0.45)])
REPEATED = Views(2000, 288.4, 0.22, 43, [(100, 0.22, 0.327)])
CURATED = Views(2000, 1895.5, 0.074, 101, [(100, 0.074, 0.074)])


def test_frames_of_a_video() -> None:
    assert redundancy.describe(FRAMES, 100) == {
        "redundancy": {
            "images": 2000, "views": 288, "coverage": 0.463, "random_images": 211,
            "sentence": "The pool is redundant: its 2,000 images show about 288 views. 100 picks show as many of them "
            "as 211 random images do.",
        },
        "coverage_curve": [[1, 0.01, 0.008], [100, 0.463, 0.327], [200, None, 0.45]],
    }  # fmt: skip


def test_curated_images() -> None:
    assert redundancy.make_sentence(CURATED, 100) == (
        "The pool has few near-duplicates: its 2,000 images show about 1,896 views. Expect a gain over random images "
        "per image, but none per labelled box."
    )


@pytest.mark.parametrize(
    ("views", "strategy", "num_labelled", "expected"),
    [
        (FRAMES, "coral", 0, None),
        (REPEATED, "active_learning", 40, "does not compare images with each other"),
        (FRAMES, "active_learning", 40, None),  # here it shows more than random images
        (REPEATED, "random", 0, None),
        (REPEATED, "coral", 0, None),
        (CURATED, "active_learning", 0, None),
        (CURATED, "coreset", 0, "Consider CORAL_STRATEGY=random"),
        (CURATED, "typicality", 0, "typicality was not better than random images"),
        (CURATED, "typicality", 1, None),
        (CURATED, "coral", 0, None),
        (CURATED, "random", 0, None),
        (FRAMES, "coreset", 0, None),
    ],
)
def test_warnings(views: Views, strategy: str, num_labelled: int, expected: str | None) -> None:
    found = list(redundancy.list_warnings(settings(strategy=strategy), views, 100, num_labelled))
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
