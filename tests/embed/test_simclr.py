"""Self-supervised training is seeded, starts from the right weights, and lowers the loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from job import parts
from job.detect import model
from job.detect.features import PooledFeature
from job.detect.model import Detector
from job.embed import embed, simclr, views
from job.embed.checkpoint import KEY, Checkpoint
from job.errors import SettingsError
from job.images import decode, make_thumbnail, read_thumbnail
from job.parts import Row
from job.parts import pool as pools
from job.storage.local import LocalFolder
from tests.conftest import picture, settings
from tests.parts.test_part import MADE_WITH, entries, row


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [read_thumbnail(make_thumbnail(picture(seed, 90, 160))) for seed in range(10)]


@pytest.fixture
def detector(small_rcnn: tuple[Path, Path]) -> Detector:
    return model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))


def trained(detector: Detector, images: list[Any], **more: Any) -> Any:
    encoder = simclr.build_encoder(detector)
    simclr.train(encoder, images, **{"epochs": 2, "batch_size": 4, "seed": 0, **more})
    return simclr.embed(encoder, images, batch_size=4).read(0, len(images))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(detector: Detector, images: list[Any]) -> None:
    first, second, other = (trained(detector, images, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (10, 512) and np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


def test_0_epochs_give_the_feature_of_the_detector(detector: Detector, images: list[Any]) -> None:
    embedded = trained(detector, images, epochs=0)
    feature = PooledFeature(detector.model)
    size = simclr.DEFAULT_RECIPE.input_size
    feature.expect(size, size)
    bgr = np.asarray(images[3].resize((size, size), 2))[:, :, ::-1].transpose(2, 0, 1).copy()
    with torch.inference_mode():
        detector.model([{"image": torch.from_numpy(bgr)}])
    assert feature.value is not None
    np.testing.assert_allclose(embedded[3], feature.value[0].numpy(), rtol=1e-3, atol=1e-4)


def test_training_leaves_the_detector_alone(detector: Detector, images: list[Any]) -> None:
    before = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    trained(detector, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.model.state_dict().items())


def test_training_lowers_the_loss(demo_detector: Detector, frames: list[Path]) -> None:
    thumbnails = [read_thumbnail(make_thumbnail(decode(each.read_bytes()))) for each in frames[::16]]
    # Compared with a run on the same views that learns nothing, since the loss of few images is noisy.
    learnt, control = (
        simclr.train(simclr.build_encoder(demo_detector), thumbnails, epochs=8, batch_size=16, seed=0, recipe=recipe)
        for recipe in (simclr.DEFAULT_RECIPE, simclr.SimCLRRecipe(learning_rate=0.0))
    )
    assert len(learnt) == len(control) == 8
    assert learnt[0] == pytest.approx(control[0])
    assert np.mean(learnt[4:]) < np.mean(control[4:]) - 0.1


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_pools(detector: Detector, images: list[Any], count: int) -> None:
    encoder = simclr.build_encoder(detector)
    simclr.train(encoder, images[:count], epochs=1, batch_size=64, seed=0)
    if count:
        assert simclr.embed(encoder, images[:count], batch_size=64).shape == (count, 512)


def test_batches_contain_every_image_once_per_epoch() -> None:
    batches = list(simclr._draw_batches(np.arange(10), 5, epochs=3, seed=1))
    assert len(batches) == 6
    for epoch in range(3):
        assert sorted(batches[2 * epoch] + batches[2 * epoch + 1]) == list(range(10))
    assert batches[0] != batches[2]


def test_of_a_large_pool_a_sample_is_trained_on_for_a_limited_number_of_steps(
    detector: Detector, images: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert simclr.choose_rows(10, 10, seed=1).tolist() == list(range(10))
    rows = simclr.choose_rows(10, 6, seed=1).tolist()
    assert len(set(rows)) == 6 and rows == sorted(rows) and rows != simclr.choose_rows(10, 6, seed=2).tolist()

    seen: list[list[int]] = []
    make_views = simclr.make_views

    def recorded(images: list[Any], rows: list[int], augmentation: Any, seed: tuple[int, ...]) -> torch.Tensor:
        seen.append(list(rows))
        return make_views(images, rows, augmentation, seed)

    monkeypatch.setattr(simclr, "make_views", recorded)
    monkeypatch.setattr(simclr, "_STEPS_UNTIL_FORECAST", 4)
    caplog.set_level("INFO")
    encoder = simclr.build_encoder(detector)
    losses = simclr.train(encoder, images, epochs=9, batch_size=2, seed=1, max_images=6, max_steps=8)
    assert len(seen) == 8 and len(losses) == 3  # two epochs of three steps, and two steps of the third
    assert {row for batch in seen for row in batch} == set(rows)
    assert caplog.text.count("Training the embedding will take about 0 minutes: 8 steps of 2 images.") == 1


@pytest.mark.parametrize(("seconds", "words"), [(61, "1 minute"), (5400, "90 minutes"), (9000, "2.5 hours")])
def test_the_expected_duration_in_words(seconds: float, words: str) -> None:
    text = simclr.describe_duration(20_000, 64, seconds)
    assert text.startswith(f"Training the embedding will take about {words}: 20,000 steps of 64 images.")


def test_a_detector_without_a_backbone_starts_from_random_weights(detector: Detector, images: list[Any]) -> None:
    class Headless(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    bare = Detector(**{**vars(detector), "model": Headless()})
    assert trained(bare, images, epochs=1).shape == (10, 512)


def test_importing_lightly_opens_no_connection() -> None:
    import subprocess
    import sys

    code = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise SystemExit('a socket was opened')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "started = []\nstart = threading.Thread.start\n"
        "threading.Thread.start = lambda self: (started.append(self.name), start(self))[1]\n"
        "import job.embed.simclr\n"
        "assert not started, started\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_views_do_not_depend_on_the_threads(detector: Detector, images: list[Any]) -> None:
    one, many = (trained(detector, images, num_threads=number) for number in (1, 5))
    np.testing.assert_array_equal(one, many)


def test_each_image_and_epoch_has_views_of_its_own(images: list[Any]) -> None:
    augmentation = simclr.DEFAULT_RECIPE.augmentation
    whole = simclr.make_views(images, [3, 5], augmentation, (0, 1))
    assert whole.shape == (4, 3, 128, 128) and whole.dtype == torch.uint8
    alone = simclr.make_views(images, [5], augmentation, (0, 1))
    assert torch.equal(whole[[1, 3]], alone) and not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone, simclr.make_views(images, [5], augmentation, (0, 2)))


def test_views_have_the_statistics_of_those_of_lightly(images: list[Any]) -> None:
    """Mean, spread and sharpness of 1,500 views of a picture, by lightly 1.5.26 and by the job."""
    from lightly.transforms import SimCLRTransform

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    theirs = SimCLRTransform(input_size=32, cj_strength=0.5, min_scale=0.2, normalize=None)
    lightly = torch.stack([view for _ in range(750) for view in theirs(images[1])]).numpy()
    augmentation = views.Augmentation(32, 0.2, 0.5)
    ours = np.concatenate([views.make_pair(images[1], augmentation, (number,)) for number in range(750)]) / 255

    def describe(made: Any) -> list[float]:
        per_view = made.mean(axis=(1, 2, 3))
        sharpness = np.abs(np.diff(made, axis=3)).mean(axis=(1, 2, 3))
        grey = np.abs(made[:, 0] - made[:, 1]).max(axis=(1, 2)) < 1e-3
        return [per_view.mean(), per_view.std(), made.std(axis=(1, 2, 3)).mean(), sharpness.mean(), grey.mean()]

    np.testing.assert_allclose(describe(ours), describe(lightly), rtol=0.12)


@pytest.mark.parametrize("size", [(128, 72), (1, 128), (3, 3), (128, 1)])
def test_crops_are_inside_the_image_and_as_large_as_those_of_torchvision(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([views.draw_crop(size, 0.2, generator) for _ in range(500)])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    if size == (128, 72):
        torch.manual_seed(0)
        ratio = [3 / 4, 4 / 3]
        theirs = np.array([RandomResizedCrop.get_params(torch.empty(3, 72, 128), [0.2, 1], ratio) for _ in range(500)])
        sides = (boxes[:, 2:] - boxes[:, :2])[:, ::-1], theirs[:, 2:]
        np.testing.assert_allclose(sides[0].mean(axis=0), sides[1].mean(axis=0), rtol=0.04)
        np.testing.assert_allclose(sides[0].prod(axis=1).std(), sides[1].prod(axis=1).std(), rtol=0.1)


class Killed(Exception):
    """Stands for the end of the process."""


class Fragile(LocalFolder):
    """A folder whose process ends after some states were written."""

    left = 10**9

    def write(self, key: str, data: Any) -> None:
        super().write(key, data)
        self.left -= 1
        if self.left == 0:
            raise Killed


def test_a_killed_training_continues_with_the_same_bytes(
    detector: Detector, images: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options: dict[str, Any] = {"epochs": 4, "batch_size": 4, "seed": 2}
    expected = trained(detector, images, **options)
    output = Fragile(str(tmp_path))
    for _ in range(2):
        output.left = 1
        with pytest.raises(Killed):
            trained(detector, images, checkpoint=Checkpoint(output, "mine"), **options)
    output.left = 10**9
    np.testing.assert_array_equal(trained(detector, images, checkpoint=Checkpoint(output, "mine"), **options), expected)
    assert "continues after 2 steps" in caplog.text and "continues after 4 steps" in caplog.text
    # All epochs are done, so what is read is the result; the state of another training is not read.
    np.testing.assert_array_equal(trained(detector, images, checkpoint=Checkpoint(output, "mine"), **options), expected)
    assert Checkpoint(output, "other").read(torch.device("cpu")) is None
    path = tmp_path / KEY
    path.write_bytes(path.read_bytes()[:-1])
    assert Checkpoint(output, "mine").read(torch.device("cpu")) is None and "is damaged" in caplog.text
    Checkpoint(output, "mine").delete()
    assert Checkpoint(output, "mine").read(torch.device("cpu")) is None


def test_a_training_that_diverges_is_said_and_leaves_nothing(detector: Detector, tmp_path: Path) -> None:
    for parameter in detector.model.parameters():
        parameter.data.fill_(torch.inf)
    output = LocalFolder(str(tmp_path))
    rows = [
        Row(**{**vars(row(f"{number}.jpg")), "thumbnail": make_thumbnail(picture(number, 90, 160))})
        for number in range(4)
    ]
    parts.write(output, rows, MADE_WITH)
    found = pools.load(output, entries(rows))
    with pytest.raises(SettingsError, match=r"diverged.*set CORAL_PRECISION=fp32, or another CORAL_SEED"):
        embed(found, settings(embedding="simclr", ssl_epochs=1), output, lambda: detector, lambda *_: None)
    assert {path.name[:5] for path in tmp_path.rglob("*") if path.is_file()} == {"part-"}
