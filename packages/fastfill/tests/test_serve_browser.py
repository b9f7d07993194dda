"""The page of the service in a real browser."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import World, make_world, running

from fastfill.gallery import Gallery, Message, read_control, submit

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-good-length"


@contextmanager
def browsing() -> Iterator[Any]:
    """Open a page of a headless browser; its errors and foreign requests fail the test."""
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        pytest.fail(
            "this test drives a browser: apt-get install chromium, and the extra: "
            "pip install 'fastfill[browser]' (uv sync --all-packages --extra browser)"
        )
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if _is_bad(said) else None)
        page.on("request", lambda asked: problems.append(asked.url) if _is_foreign(asked) else None)
        yield page
        browser.close()
    assert problems == []


def _is_bad(said: Any) -> bool:
    # The browser logs every answer of 400 and above, which the tests ask for.
    return said.type == "error" and "status of 40" not in said.text


def _is_foreign(asked: Any) -> bool:
    return not asked.url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    plan = {"predicted": [[0.0, 0.5], [0.5, 0.7], [1.0, 0.75]]}
    (world.gallery / "plan.json").write_text(json.dumps(plan))
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.apply(np.arange(3), world.new[:3])
        gallery.add(["<img src=x onerror=alert(1)>"], world.new[3:4] + 0.01)
        gallery.fail(5, "is missing")
    return world


def test_page_shows_progress_curve_and_results(world: World) -> None:
    with running(world, source=str(world.images)) as client, browsing() as page:
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.get_by_text("backfilling").wait_for()
        assert page.locator("#share").inner_text() == "30.8 %"
        assert "picture 05.png: is missing" in page.locator("#failure-list").text_content()

        page.locator("svg circle.measured").first.wait_for()
        assert page.locator("polyline.predicted").get_attribute("points").count(",") == 3
        assert page.locator("#point-rows tr").count() == 4
        assert page.locator("#predicted-name").inner_text() == "predicted by the plan: map"

        page.get_by_role("button", name="Pause").click()
        page.get_by_text("paused", exact=True).wait_for()
        assert read_control(world.gallery).paused
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("backfilling").wait_for()
        assert not read_control(world.gallery).paused

        page.get_by_label("Image to look for").set_input_files(world.images / world.ids[3])
        page.get_by_label("Results", exact=True).fill("13")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("13 results").wait_for()
        versions = page.locator("#results .version").all_inner_texts()
        assert (versions.count("new"), versions.count("h(old)")) == (4, 9)
        # The hostile id is text, and has no original; the others have thumbnails.
        assert "<img src=x onerror=alert(1)>" in page.locator("#results .id").all_inner_texts()
        page.get_by_text("no original").wait_for()
        page.locator("#results img").nth(11).wait_for()
        assert page.evaluate(
            "Promise.all([...document.querySelectorAll('#results img')].map(i => i.decode()))"
            ".then(all => all.length)"
        ) == 12  # fmt: skip

        page.get_by_label("Or the id of an item").fill(world.ids[0])
        page.get_by_role("button", name="Search").click()
        page.get_by_text(f"{world.ids[0]} (new): 12 results").wait_for()

        submit(world.gallery, Message(kind="result", rows=np.arange(12), vectors=world.new))
        page.get_by_text("complete").wait_for()
        page.locator("svg circle.measured").nth(1).wait_for()
        assert page.locator("svg circle.measured").count() == 2
        assert page.locator("#message").inner_text() == ""


def test_page_asks_for_the_token(world: World) -> None:
    with running(world, token=TOKEN) as client, browsing() as page:
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.get_by_label("Token of this service").fill(TOKEN)
        page.get_by_role("button", name="Use", exact=True).click()
        page.get_by_text("backfilling").wait_for()
        page.get_by_label("Token of this service").wait_for(state="hidden")
        page.get_by_label("Or the id of an item").fill("nobody")
        with page.expect_response("**/api/query") as answered:
            page.get_by_role("button", name="Search").click()
        assert answered.value.status == 404
        page.get_by_text("the gallery has no item 'nobody'").wait_for()
