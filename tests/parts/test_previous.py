"""Rows that are taken from the outputs of earlier runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from job import parts
from job.errors import SettingsError
from job.parts import Provenance, pool, previous
from job.storage import Listing
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH, entries, failed, row


def written(folder: Path, *rows: parts.Row, made_with: Provenance = MADE_WITH) -> LocalFolder:
    output = LocalFolder(str(folder))
    parts.write(output, list(rows), made_with)
    return output


def reuse(outputs: list[LocalFolder], output: LocalFolder, listing: Listing, made_with: Provenance = MADE_WITH) -> int:
    """Number of images that have rows now."""
    previous.check_same(outputs, made_with)
    done: set[tuple[str, str]] = set()
    for earlier in outputs:
        done = previous.reuse(earlier, output, listing, done, made_with)
    return len(done)


def test_the_first_that_has_an_unchanged_image_wins(tmp_path: Path) -> None:
    """a is in both, b has changed since the first run, c is in the second only, d could not be read, e is new."""
    unread = replace(failed("d.jpg"), status="unread")
    first = written(tmp_path / "1", row("a.jpg", seed=1), row("b.jpg", seed=2, etag="old"), unread)
    second = written(tmp_path / "2", row("a.jpg", seed=3), row("b.jpg", seed=4), row("c.jpg", seed=5), failed("d.jpg"))
    wanted = [row("a.jpg"), row("b.jpg"), row("c.jpg"), failed("d.jpg"), row("e.jpg")]
    listing = Listing.from_entries(entries(wanted))
    for outputs, seed_of_a in (([first, second], 1), ([second, first], 3)):
        output = LocalFolder(str(tmp_path / f"out{seed_of_a}"))
        assert reuse(outputs, output, listing) == 4
        loaded = pool.load(output, entries(wanted[:4]))
        assert loaded.file_names == ["a.jpg", "b.jpg", "c.jpg"] and [name for name, _ in loaded.failures] == ["d.jpg"]
        assert loaded.features is not None
        for features, seed in zip(loaded.features.read(0, 3), (seed_of_a, 4, 5), strict=True):
            np.testing.assert_array_equal(features, row("", seed=seed).feature)


def test_the_one_with_other_settings_is_named_and_nothing_is_copied(tmp_path: Path) -> None:
    first = written(tmp_path / "1", row("a.jpg"))
    other = written(tmp_path / "2", row("b.jpg"), made_with=replace(MADE_WITH, precision="fp16"))
    output, listing = LocalFolder(str(tmp_path / "out")), Listing.from_entries(entries([row("a.jpg"), row("b.jpg")]))
    with pytest.raises(
        SettingsError, match=r"CORAL_PREVIOUS='.*/2' was made with other settings \(different precision"
    ):
        reuse([first, other], output, listing)
    assert not (tmp_path / "out").exists()


def test_classes_may_have_other_names_but_not_another_number(tmp_path: Path) -> None:
    first = written(tmp_path / "1", row("a.jpg"))
    renamed = replace(MADE_WITH, class_names=("x", "y", "z"))
    output, listing = LocalFolder(str(tmp_path / "out")), Listing.from_entries(entries([row("a.jpg")]))
    assert reuse([first], output, listing, renamed) == 1
    assert [part.provenance for part in parts.read(output)] == [renamed]
    assert parts.find_done(output, MADE_WITH) == {("a.jpg", "e")}
    with pytest.raises(SettingsError, match=r"\(different number of classes\)"):
        reuse([first], output, listing, replace(MADE_WITH, class_names=("x", "y")))


def test_the_pool_has_the_current_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Some parts were written before the names were corrected, and some after that."""
    output = written(tmp_path, row("a.jpg", seed=1))
    renamed = replace(MADE_WITH, class_names=("a", "y", "z"))
    parts.write(output, [row("b.jpg", seed=2)], renamed)
    listing = entries([row("a.jpg"), row("b.jpg")])
    pools = [
        pool.load(output, listing, {"y": 0.5}, renamed.class_names),
        pool.load(output, listing, {"b": 0.5}, MADE_WITH.class_names),
    ]
    assert [loaded.provenance for loaded in pools] == [renamed, MADE_WITH]
    for name, values in pools[0].scores.items():
        np.testing.assert_array_equal(values, pools[1].scores[name])
    with pytest.raises(SettingsError, match="'b', which is not a class of the detector: use a, y, z"):
        pool.load(output, listing, {"b": 0.5}, renamed.class_names)
    assert "2 of 3 classes have another name than at detection, such as 'y' instead of 'b'" in caplog.text
