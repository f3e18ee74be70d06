"""report.html: what it says, in a real browser where there is one, and what odd runs make of it."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from job import images, parts, report
from job.choose import choose_among
from job.context import Selected, SelectionInputs
from job.parts import Row, boxes, pool
from job.parts.pool import Pool
from job.publish.boxes import read_boxes
from job.publish.results import explain
from job.publish.summary import gather as evidence
from job.publish.tables import format_picks
from job.report import duplicates
from job.report import needs as report_needs
from job.report.gather import gather
from job.report.projection import project
from job.select.points import ArrayPoints
from job.spool import SpooledRows
from job.storage import Entry
from job.storage.local import LocalFolder
from job.texts import Texts
from tests.conftest import ROOT, Job, demo_variables, nothing_elsewhere, picture, settings, start_job
from tests.parts.test_part import MADE_WITH, failed
from tests.parts.test_part import row as made_row
from tests.standins import browser as browsers

NASTY = "<script>window.hacked = 1</script>'\"&😀\u2028</script>.jpg"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from browsers.launched()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Opens a file in a page; nothing may go wrong in it, or be asked for from elsewhere."""
    errors: list[str] = []
    pages: list[Page] = []

    def note(message: ConsoleMessage) -> None:
        # The browser's software for WebGL warns of its own speed where there is no GPU.
        if message.type in ("error", "warning") and "GL Driver Message (OpenGL, Performance" not in message.text:
            errors.append(message.text)

    def open_page(path: Path, **options: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", note)
        page.on("request", lambda each: None if each.url.startswith(("file:", "data:")) else errors.append(each.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for each in pages:
        each.close()
    assert errors == []


def usable(name: str, seed: int, boxes: int = 2) -> Row:
    row = made_row(name, boxes=boxes, seed=seed)
    assert row.boxes is not None
    row.boxes[:] = np.sort(row.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4) * 40
    return replace(row, thumbnail=images.make_thumbnail(picture(seed, 48, 64)))


def reported(folder: Path, rows: list[Row], count: int, **options: Any) -> str:
    """The report on a selection among some rows."""
    output = LocalFolder(str(folder))
    parts.write(output, rows, MADE_WITH)
    found = pool.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])
    return rendered(output, found, count, **options)


def rendered(output: LocalFolder, found: Pool, count: int, source: LocalFolder | None = None, **values: Any) -> str:
    zeros = ArrayPoints(np.zeros((len(found.file_names), 6), np.float32))
    embeddings = found.features if found.features is not None else zeros
    chosen = settings(n_samples=count, **values)
    selection = choose_among(chosen, output, found, embeddings, [])
    elsewhere = nothing_elsewhere(embeddings.shape[1])
    everything = SelectionInputs(found, embeddings, {"method": "detector"}, [], elsewhere, {}, "0")
    detections = boxes.detections(output, found, [pick.index for pick in selection.picks])
    selected = explain(chosen, everything, selection, detections, "local")
    counts = {"images": len(found.file_names) + len(found.failures), "usable": len(found.file_names), "labelled": 0}
    run = {
        "coralpick": "0", "device": "cpu", "settings": {"CORAL_INPUT": "<b>in</b>"}, "versions": {},
        "seconds": {"detect": 1.5},
        "detector": {"class_names": ["a", "b", "c"]}, "embedding": {"method": "detector"},
        "counts": counts | {"failed": len(found.failures), "selected": len(selected)},
        "selection": evidence(chosen, everything, selection, detections, np.zeros(len(found.file_names))),
    }  # fmt: skip
    needs = report_needs.choose(found, embeddings, [], [pick.index for pick in selection.picks])
    read_boxes(output, found, needs)
    content = gather(
        output, found, embeddings, project(embeddings), [], selected, run, source, format_picks(selected), needs
    )
    return report.render(content).decode()


@pytest.fixture(scope="module")
def demo(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on 30 real frames, one of them broken, with a real detector."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "in").mkdir()
    for frame in frames[::9]:
        shutil.copy(frame, folder / "in")
    (folder / "in" / "broken.jpg").write_bytes(b"no image")
    process = start_job(**demo_variables(folder / "in", folder / "out", CORAL_N_SAMPLES=8))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return folder / "out" / "report.html"


def test_a_person_looks_through_the_picks(demo: Path, opened: Any) -> None:
    page = opened(demo)
    run = json.loads((demo.parent / "run.json").read_text())
    picks = [json.loads(each) for each in (demo.parent / "selected.jsonl").read_text().splitlines()]
    cards = page.locator(".card")
    assert cards.count() == len(picks) == 8
    for number, pick in enumerate(picks):
        assert cards.nth(number).locator(".name").inner_text() == pick["file_name"]
        assert cards.nth(number).locator(".reason").inner_text() == pick["reason"]
    assert page.evaluate(
        "[...document.images].every(each => each.id || !each.src || (each.complete && each.naturalWidth > 0))"
    )
    assert "broken.jpg" in page.locator("#failures").inner_text()
    of_random = run["selection"]["redundancy"]["random_images"]
    assert of_random > 8
    headline = f"8 picks cover this pool as well as {of_random} random images do."
    assert page.locator(".headline").inner_text() == headline
    page.wait_for_selector("#plot-curve .scatterlayer .js-line")
    assert f"Pool: {run['counts']['usable']} images" in page.locator(".about").inner_text()
    assert str(round(run["selection"]["expected_boxes"])) in page.locator(".summary").inner_text()
    # The boxes lie where the detector saw them; the one that decides is marked, with the number that the reason gives.
    for number, pick in enumerate(picks):
        if not pick["boxes"]:
            continue
        card = cards.nth(number)
        deciding = card.locator(".deciding")
        assert deciding.count() == 1
        top = pick["boxes"][0]
        label = f"{top['class']} {top['score']:.2f}"
        assert deciding.locator(".label").inner_text() == f"★ {label}"
        if f"{top['class']} (" in pick["reason"]:
            assert f"{top['class']} ({top['score']:.2f})" in pick["reason"]
        picture_box, found = card.locator(".picture").bounding_box(), deciding.bounding_box()
        width, height = map(int, re.findall(r"\d+", card.locator(".picture").get_attribute("style")))
        scale = picture_box["width"] / width
        wanted = [top["box"][0], top["box"][1], top["box"][2] - top["box"][0], top["box"][3] - top["box"][1]]
        seen = [found["x"] - picture_box["x"], found["y"] - picture_box["y"], found["width"], found["height"]]
        assert np.allclose([side / scale for side in seen], wanted, atol=0.0002 * max(width, height) / scale)


def test_a_class_has_one_color_everywhere(demo: Path, opened: Any) -> None:
    page = opened(demo)
    pairs = page.evaluate(
        """() => [...document.querySelectorAll(".card .box")].map((box) => [
          box.textContent.replace("★ ", "").replace(/ [\\d.]+$/, ""), getComputedStyle(box).borderTopColor])"""
    )
    colors = {name: {color for other, color in pairs if other == name} for name, _ in pairs}
    assert len(colors) > 2 and all(len(of_class) == 1 for of_class in colors.values())
    listed = page.evaluate(
        """() => [...document.querySelectorAll("#struggles th .swatch")].map((swatch) => [
          swatch.parentElement.textContent, getComputedStyle(swatch).backgroundColor])"""
    )
    assert {name: {color} for name, color in listed if name in colors} == colors


def test_filters(demo: Path, opened: Any) -> None:
    page = opened(demo)
    total = page.locator(".card").count()
    wanted = page.evaluate(
        "JSON.parse([...document.querySelectorAll('.card')].map(c => c.dataset.classes).find(c => c !== '[]'))[0]"
    )
    page.select_option("#class", wanted)
    shown = page.locator(".card:visible")
    assert shown.count() > 0 and page.locator("#shown").inner_text() == f"{shown.count()} picks"
    for number in range(shown.count()):
        assert wanted in json.loads(shown.nth(number).get_attribute("data-classes"))
    page.select_option("#class", "")
    name = page.locator(".card .name").nth(2).inner_text()
    page.fill("#text", name)
    assert page.locator(".card:visible .name").first.inner_text() and page.locator(".card:visible").count() < total
    page.fill("#text", "")
    page.uncheck("#boxes")
    assert page.locator(".card .box:visible").count() == 0
    page.check("#boxes")
    page.locator("#confidence").fill("0.5")
    shown_scores = page.evaluate(
        "[...document.querySelectorAll('.card .box:not(.deciding)')].filter((box) => !box.hidden)"
        ".map((box) => +box.dataset.score)"
    )
    assert shown_scores and min(shown_scores) >= 0.5


def test_a_pick_is_enlarged_and_the_keys_go_on(demo: Path, opened: Any) -> None:
    page = opened(demo)
    page.locator(".card .enlarge").nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#large")
    assert dialog.is_visible() and dialog.locator(".rank").inner_text() == "2"
    small, large = (page.locator(each).first.bounding_box() for each in (".card .picture", "#large .picture"))
    assert large["width"] > 2 * small["width"] and large["height"] < 900
    assert dialog.locator(".reason").inner_text() == page.locator(".card .reason").nth(1).inner_text()
    assert [dialog.locator("button").nth(number).inner_text() for number in (0, 1)] == ["Previous", "Next"]
    marked = dialog.locator(".picture .deciding .label").inner_text()
    assert marked in dialog.locator(".detections").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".rank").inner_text() == "3"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert dialog.locator(".rank").inner_text() == "8"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.closest('.card').querySelector('.rank').textContent") == "8"


def open_map(page: Page) -> None:
    page.locator("#plot-map").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-map[data-ready] .scatterlayer .point")


def center_of_pick(page: Page, rank: int) -> tuple[float, float]:
    """Where the number of a pick is on the screen."""
    text = page.locator("#plot-map .textpoint", has_text=re.compile(f"^{rank}$")).bounding_box()
    return text["x"] + text["width"] / 2, text["y"] + text["height"] / 2


def test_the_map_shows_an_image_where_one_points(demo: Path, opened: Any) -> None:
    page = opened(demo)
    open_map(page)
    page.mouse.move(*center_of_pick(page, 3))
    name = page.locator(".card").nth(2).locator(".name").inner_text()
    assert page.locator("#seen-name").inner_text() == name
    assert "Pick 3 · score (entropy_sum): " in page.locator("#seen-facts").inner_text()
    assert page.evaluate("document.querySelector('#seen-image').naturalWidth") > 0
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#large .rank").inner_text() == "3"


def test_the_map_has_a_color_for_each_class_cluster_and_score(demo: Path, opened: Any) -> None:
    page = opened(demo)
    open_map(page)
    assert page.locator("#color-by option").all_inner_texts()[1:] == ["class", "cluster"]
    colors = [page.evaluate("document.getElementById('map-canvas').toDataURL()")]
    for name in ("class", "cluster"):
        page.select_option("#color-by", label=name)
        counts = page.locator("#legend .note").all_inner_texts()
        assert sum(map(int, counts)) == 28  # every image
        colors.append(page.evaluate("document.getElementById('map-canvas').toDataURL()"))
    assert len(set(colors)) == 3
    # The points are drawn where Plotly draws the picks.
    drawn = page.evaluate(
        """() => { const canvas = document.getElementById("map-canvas"); const copy = document.createElement("canvas");
          Object.assign(copy, { width: canvas.width, height: canvas.height });
          const context = copy.getContext("2d", { willReadFrequently: true }); context.drawImage(canvas, 0, 0);
          const box = canvas.getBoundingClientRect();
          return [...document.querySelectorAll("#plot-map .textpoint")].map((text) => {
            const place = text.getBoundingClientRect();
            const [x, y] = [place.x + place.width / 2 - box.x, place.y + place.height / 2 - box.y];
            const ratio = copy.width / box.width;
            return context.getImageData(x * ratio, y * ratio, 1, 1).data[3]; }); }"""
    )
    assert len(drawn) == 8 and min(drawn) > 100


def test_a_box_on_the_map_filters_the_gallery(demo: Path, opened: Any) -> None:
    page = opened(demo)
    open_map(page)
    x, y = center_of_pick(page, 1)
    page.mouse.move(x - 25, y - 25)
    page.mouse.down()
    page.mouse.move(x + 25, y + 25, steps=5)
    page.mouse.up()
    inside = {
        rank
        for rank in range(1, 9)
        for place in [center_of_pick(page, rank)]
        if abs(place[0] - x) < 25 and abs(place[1] - y) < 25
    }
    page.locator("#in-box:not(:empty)").wait_for()
    shown = {int(rank) for rank in page.locator(".card:visible .rank").all_inner_texts()}
    assert shown == inside and 1 in shown and len(shown) < 8
    assert f"{len(shown)} of them picks" in page.locator("#in-box").inner_text()
    page.click("#clear-map")
    assert page.locator(".card:visible").count() == 8 and page.locator("#in-box").inner_text() == ""


def test_a_pick_is_shown_on_the_map_by_the_keyboard(demo: Path, opened: Any) -> None:
    page = opened(demo)
    page.locator(".card .to-map").nth(4).focus()
    page.keyboard.press("Enter")
    page.locator("#seen-facts", has_text=re.compile("^Pick 5 ")).wait_for()
    x, y = center_of_pick(page, 5)
    ring = page.locator("#plot-map .scatterlayer .trace").last.locator(".point").bounding_box()
    assert abs(ring["x"] + ring["width"] / 2 - x) < 2 and abs(ring["y"] + ring["height"] / 2 - y) < 3


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)])
def test_it_can_be_read_in_light_and_dark_on_laptop_and_phone(demo: Path, opened: Any, scheme: str, width: int) -> None:
    page = opened(demo, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shots = ROOT / ".cache" / "report"  # to look at
    shots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=shots / f"{scheme}-{width}.png")
    open_map(page)
    page.screenshot(path=shots / f"{scheme}-{width}-map.png")
    # WCAG's contrast of text, notes and links on the ground that they stand on.
    contrasts = page.evaluate(
        """() => {
          const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
          const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = (c) => rgb(c).slice(0, 3).map((v) => linear(v / 255))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
          return [...document.querySelectorAll("p, dt, dd, a, th, td, .rank, h1, h2, h3, li, summary")].map((e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); });
        }"""
    )
    assert min(contrasts) >= 4.5
    assert page.evaluate("[...document.images].every(each => each.alt)")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => +each.tagName[1])")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))


def test_nothing_in_a_name_is_executed(tmp_path: Path, opened: Any) -> None:
    rows = [usable(NASTY, 0), usable("quote'\".jpg", 1), usable("line\nbreak.jpg", 2, boxes=0), failed(f"x{NASTY}")]
    text = reported(tmp_path / "out", rows, 3)
    (tmp_path / "a.html").write_text(text)
    page = opened(tmp_path / "a.html")
    assert page.evaluate("window.hacked") is None
    assert NASTY.replace("\u2028", " ") in [
        each.replace("\u2028", " ") for each in page.locator(".card .name").all_text_contents()
    ]
    page.locator("#plot-map").scroll_into_view_if_needed()
    page.locator(".card button").first.click()
    assert page.evaluate("window.hacked") is None


def test_the_policy_stops_what_the_job_did_not_write(demo: Path, browser: Browser, tmp_path: Path) -> None:
    added = "<script>window.hacked = 1</script><img src='https://example.org/x.png' onerror='window.hacked = 2'></body>"
    (tmp_path / "a.html").write_text(demo.read_text(encoding="utf-8").replace("</body>", added), encoding="utf-8")
    page = browser.new_page()
    failures: list[str | None] = []
    refused: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.failure))
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "a.html").as_uri())
    open_map(page)
    assert page.evaluate("window.hacked") is None
    assert failures == ["csp"]
    assert len([text for text in refused if "Content Security Policy" in text]) >= 2
    page.close()


def test_one_image(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "a.html").write_text(reported(tmp_path / "out", [usable("a.jpg", 0)], 5))
    page = opened(tmp_path / "a.html")
    assert page.locator(".card").count() == 1


def test_no_detections_anywhere(tmp_path: Path, opened: Any) -> None:
    rows = [usable(f"{number}.jpg", number, boxes=0) for number in range(6)]
    (tmp_path / "a.html").write_text(reported(tmp_path / "out", rows, 2))
    page = opened(tmp_path / "a.html")
    assert "6 of 6 images" in page.locator("#struggles").inner_text()
    assert page.locator(".card .reason").first.inner_text().startswith("nothing detected")


def test_three_hundred_picks_stay_small(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "in").mkdir()
    rows = [usable(f"{number:03d}.jpg", number, boxes=number % 9) for number in range(320)]
    for number, each in enumerate(rows):
        # As hard to compress as photographs are.
        noise = np.random.default_rng(number).integers(0, 60, (480, 640, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "in" / each.file_name), picture(number, 480, 640) // 2 + noise)
    source = LocalFolder(str(tmp_path / "in"))
    etags = {each.key: each for each in source.list()}
    rows = [replace(each, etag=etags[each.file_name].etag) for each in rows]
    text = reported(tmp_path / "out", rows, 300, source=source)
    assert len(text) < 20_000_000
    (tmp_path / "a.html").write_text(text)
    assert opened(tmp_path / "a.html").locator(".card").count() == 300


def test_pictures_are_the_originals_or_else_the_thumbnails(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = [usable("a.jpg", 0), usable("gone.jpg", 1)]
    cv2.imwrite(str(tmp_path / "in" / "a.jpg"), picture(0, 480, 640))
    source = LocalFolder(str(tmp_path / "in"))
    rows[0] = replace(rows[0], etag=next(iter(source.list())).etag)
    with_source = reported(tmp_path / "out", rows, 2, source=source)
    without = reported(tmp_path / "other", rows, 2)
    sizes = [
        sorted(map(len, re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="Pick', each)))
        for each in (with_source, without)
    ]
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] > 2 * sizes[1][1]


def test_two_hundred_thousand_images(tmp_path: Path, opened: Any) -> None:
    """The rows are made, by repeating those of a few images; the detections are those of the first part."""
    output = LocalFolder(str(tmp_path))
    rows = [usable(f"{number:03d}.jpg", number) for number in range(50)]
    parts.write(output, rows, MADE_WITH)
    small = pool.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])
    many, rng = 4000, np.random.default_rng(0)
    assert small.features is not None
    features = SpooledRows((50 * many, 6))
    features.write(0, small.features.read(0, 50).repeat(many, axis=0) + rng.normal(0, 0.3, (50 * many, 6)))
    large = replace(
        small,
        file_names=Texts.of(
            f"{key}~{number:04d}" if number else key for key in small.file_names for number in range(many)
        ),
        size=small.size.repeat(many, axis=0),
        etag=[each for each in small.etag for _ in range(many)],
        byte_size=small.byte_size.repeat(many),
        num_boxes=small.num_boxes.repeat(many),
        expected_boxes=small.expected_boxes.repeat(many),
        scores={name: values.repeat(many) * rng.random(50 * many) for name, values in small.scores.items()},
        features=features,
        part=small.part.repeat(many),
        part_row=small.part_row.repeat(many),
    )
    picks = [Selected(1, small.file_names[0], 0.5, 0.5, None, None, "first", {"utility": 0.5}, [])]
    run: dict[str, Any] = {
        "coralpick": "0", "device": None, "settings": {}, "versions": {}, "seconds": {}, "embedding": {},
        "detector": {"class_names": []}, "counts": {"usable": 200_000, "labelled": 0, "failed": 0, "selected": 1},
        "selection": {"classes": {name: {"picks": 0} for name in "abc"}, "boxes": 2, "expected_boxes": 1.0,
                      "without_boxes": {"pool": 0.0, "picks": 0.0}, "expected_cost": 0.0},
    }  # fmt: skip
    assert large.features is not None
    needs = report_needs.choose(large, large.features, [], [0])
    boxes.scan(output, large, needs.shown, [needs.keeper, needs.sample])
    content = gather(
        output, large, large.features, project(large.features), [], picks, run, None, format_picks(picks), needs
    )
    page = report.render(content)
    assert content.map is not None and 99_000 < len(content.map.file_names) <= 100_000 and content.map.total == 200_000
    assert " of 200,000 images are shown" in page.decode() and "(evenly spaced, of 200,000)" in page.decode()
    assert len(page) < 15_000_000
    assert report.render(content) == page
    (tmp_path / "a.html").write_bytes(page)
    shown = opened(tmp_path / "a.html")
    open_map(shown)
    assert shown.evaluate("document.getElementById('map-canvas').getContext('webgl').isContextLost()") is False
    shown.locator("#map-canvas").scroll_into_view_if_needed()
    shown.mouse.move(*center_of_pick(shown, 1))
    assert shown.locator("#seen-name").inner_text() == small.file_names[0]


def test_all_images_failed_ends_before_a_report(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no image")
    done = job(**demo_variables(tmp_path / "in", tmp_path / "out"))
    assert done.returncode == 65 and "1 of 1 images are unusable" in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()


def test_near_duplicates_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(90, 4))
    embeddings[40:80] = embeddings[:40] + rng.normal(0, 0.06, (40, 4))
    points = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    leaders: list[int] = []
    members: dict[int, int] = {}
    for row in range(90):
        leader = next((each for each in leaders if distance[row, each] < 0.1), row)
        if leader == row:
            leaders.append(row)
        members[leader] = members.get(leader, 0) + 1
    found = duplicates.find(embeddings.astype(np.float32))
    assert found.with_duplicate == int(((distance < 0.1).sum(axis=1) > 1).sum()) > 10 and found.examined == 90
    assert dict(found.groups) == {leader: count for leader, count in members.items() if count > 1}
    assert [count for _, count in found.groups] == sorted((count for _, count in found.groups), reverse=True)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_fault(demo: Path, opened: Any, scheme: str, width: int) -> None:
    script = ROOT / ".cache" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        pytest.skip("npm has not installed axe-core: make test.")
    page = opened(demo, viewport={"width": width, "height": 800}, color_scheme=scheme)
    open_map(page)
    for is_enlarged in (False, True):
        if is_enlarged:
            page.locator(".card .enlarge").first.click()
        page.evaluate(script.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")
        assert [(fault["impact"], fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []
        assert len(found["passes"]) > 20


def test_every_control_is_reached_by_the_keyboard(demo: Path, opened: Any) -> None:
    page = opened(demo)
    open_map(page)
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, summary")].filter((control) =>
          control.checkVisibility()).map((control, number) => { control.dataset.number = number; return number; })"""
    )
    reached = set()
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("Number(document.activeElement.dataset.number ?? -1)"))
    assert set(wanted) - reached == set() and len(wanted) > 40


def test_it_prints(demo: Path, opened: Any) -> None:
    page = opened(demo)
    pdf = page.pdf(format="A4")  # as the browser prints
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator(".card .reject").first.is_visible()
    assert page.locator(".card .reason").first.is_visible()


def saved(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def test_the_lists_are_those_of_the_output_without_rejected_picks(demo: Path, opened: Any) -> None:
    page = opened(demo)
    txt, csv = ((demo.parent / name).read_bytes() for name in ("selected.txt", "selected.csv"))
    assert saved(page, "#save-txt") == txt and saved(page, "#save-csv") == csv
    assert not page.locator("#save-rejected").is_visible()
    page.locator(".card .reject").nth(1).click()
    page.locator(".card .enlarge").nth(4).click()
    page.keyboard.press("x")
    assert page.locator("#large-reject").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    names = txt.decode().splitlines(keepends=True)
    assert saved(page, "#save-txt").decode() == "".join(names[:1] + names[2:4] + names[5:])
    rows = csv.decode().splitlines(keepends=True)
    assert saved(page, "#save-csv").decode() == "".join(rows[:2] + rows[3:5] + rows[6:])
    assert saved(page, "#save-rejected").decode() == names[1] + names[4]
    assert page.locator("#rejected").inner_text() == "2 picks are rejected:"
    page.reload()  # the browser remembers them
    assert page.locator(".card.rejected .rank").all_inner_texts() == ["2", "5"]
    page.locator(".card .reject").nth(1).click()
    page.locator(".card .reject").nth(4).click()
    assert saved(page, "#save-txt") == txt and not page.locator("#replace").is_visible()


def test_a_pick_on_the_timeline_is_enlarged(demo: Path, opened: Any) -> None:
    page = opened(demo)
    page.locator("#plot-timeline-0").scroll_into_view_if_needed()
    place = page.wait_for_selector("#plot-timeline-0 .textpoint")
    assert "All images: 28 images, 8 picks" in page.locator("#time h3").inner_text()
    rank = place.text_content()
    box = place.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#large .rank").inner_text() == rank


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [usable(f"{'ab'[number % 2]}/{number}.jpg", number, boxes=number % 4) for number in range(60)]
    first, second = (reported(tmp_path / name, rows, 5).replace(str(tmp_path / name), "") for name in ("one", "two"))
    assert first == second
