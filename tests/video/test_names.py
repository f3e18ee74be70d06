import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.shards import Shard
from job.video import Frame, name_frame, parse_frame
from job.video.names import EXTENSIONS, add_time, split_time, time_alone

STEMS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\n\0"), min_size=1).filter(
    lambda text: text.strip(".") != ""
)


def test_the_example_in_the_manual_of_lightly_one() -> None:
    assert name_frame("Pexels_Videos_1409899.mp4", 40, 99) == "Pexels_Videos_1409899-40-mp4.png"
    assert name_frame("day 1/clip.MOV", 7, 1000) == "day 1/clip-0007-MOV.png"


@given(STEMS, st.sampled_from(sorted(EXTENSIONS)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_name_gives_back_its_frame(stem: str, extension: str, number: int, more: int) -> None:
    video = f"folder/{stem}{extension}"
    assert parse_frame(name_frame(video, number, number + more)) == Frame(video, number)


@pytest.mark.parametrize("name", ["clip-40.png", "clip-40-mp4.jpg", "clip-x-mp4.png", "-40-mp4.png", "clip-40-exe.png"])
def test_other_names_are_no_frames(name: str) -> None:
    assert parse_frame(name) is None


@given(st.text(), st.floats(0, 1e6))
def test_an_etag_gives_back_its_time(etag: str, seconds: float) -> None:
    found, time = split_time(add_time(etag, seconds))
    assert found == etag and time is not None and abs(time - seconds) < 6e-4
    assert split_time("#t=noon") == ("#t=noon", None)
    assert split_time(time_alone(add_time(etag, seconds))) == ("", time)
    assert time_alone("0123") == time_alone("#t=noon") == ""


def test_neighbouring_frames_share_a_shard_and_long_videos_are_spread() -> None:
    shards = [Shard(index, 3) for index in range(3)]
    owners = [
        next(shard.index for shard in shards if shard.owns(name_frame("drive.mp4", number, 99_999)))
        for number in range(100_000)
    ]
    changes = [number for number in range(1, len(owners)) if owners[number] != owners[number - 1]]
    assert all(number % 256 == 0 for number in changes)
    assert min(owners.count(index) for index in range(3)) > 25_000
