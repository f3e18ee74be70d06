"""The first screen: its sentences are held to curves whose answers are worked out by hand."""

from typing import Any

from job.report import headline
from job.report.duplicates import Duplicates


def make_run(**selection: Any) -> dict[str, Any]:
    return {
        "created": "2026-11-28T03:23:00+00:00",
        "settings": {"CORAL_MODEL": "faster.yaml", "CORAL_INPUT": "s3://a/b", "CORAL_PREDICTIONS": None},
        "counts": {"selected": 20, "usable": 1000, "images": 1010, "failed": 10, "labelled": 5},
        "selection": {"expected_cost": 0.0, **selection},
    }


REDUNDANCY = {"images": 250, "views": 40, "coverage": 0.8, "random_images": 60, "sentence": "Few near-duplicates."}
CURVE = [[1, 0.1, 0.1], [5, 0.4, 0.2], [10, 0.6, 0.3], [20, 0.8, 0.5], [40, None, 0.7], [80, None, 0.9]]


def test_the_curve_says_what_the_picks_do() -> None:
    lead = headline.make_lead(make_run(coverage_curve=CURVE, redundancy=REDUNDANCY), None)
    assert lead.headline == "20 picks cover this pool as well as 60 random images do."
    assert lead.last_step == "The picks show 80 % of its views; the last 10 of them added 20 %."
    assert lead.heading == "Label these 20 images next"
    assert lead.about == [
        "Model: faster.yaml",
        "Pool: 1,000 images in s3://a/b, of which 5 are labelled",
        "28 November 2026, 03:23 UTC",
    ]


def test_a_curve_that_is_flat_at_its_end() -> None:
    curve = [[1, 0.1, 0.1], [10, 0.76, 0.3], [20, 0.8, 0.5]]
    lead = headline.make_lead(make_run(coverage_curve=curve, redundancy=REDUNDANCY), None)
    assert lead.last_step.endswith("the last 10 of them added 4 %. More picks would add little.")


def test_picks_that_do_no_more_than_random_images() -> None:
    redundancy = REDUNDANCY | {"random_images": 20}
    lead = headline.make_lead(make_run(coverage_curve=[[20, None, 0.1]], redundancy=redundancy), None)
    assert (lead.headline, lead.last_step, lead.curve) == ("Few near-duplicates.", "", None)


def test_without_a_curve_the_radius_speaks() -> None:
    lead = headline.make_lead(make_run(covering_radius=0.3, covering_radius_random=0.4), None)
    assert lead.curve is None and "25 % nearer" in lead.headline
    assert headline.make_lead(make_run(covering_radius=0.4, covering_radius_random=0.4), None).headline == ""
    assert headline.make_lead(make_run(), None).headline == ""


def test_the_tiles_are_the_costs_and_the_copies() -> None:
    selection = {"expected_boxes": 16.9, "boxes": 88, "expected_cost": 12.5, "near_duplicate_pairs": 1}
    lead = headline.make_lead(make_run(**selection), Duplicates(200, 50, []))
    assert [(label, value) for label, value, _ in lead.tiles] == [
        ("images to label", 20),
        ("boxes to label", 17),
        ("expected cost", 12.5),
        ("near-duplicates in the pool", "25 %"),
        ("unusable", 10),
    ]
    assert lead.tiles[3][2].endswith("1 pair of picks")
