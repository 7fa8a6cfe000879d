"""The page on which a person plays, in Debian's Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.serve.conftest import Start

SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"


def test_the_page_needs_nothing_from_elsewhere(start: Start) -> None:
    answer = httpx.get(f"{start().url}/play")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


@pytest.fixture
def page() -> Iterator[Any]:
    """A tab; no error in its console."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium found: apt-get install chromium, or set CHROMIUM to its path"
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        tab = browser.new_page(viewport={"width": 1100, "height": 800})
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.set_default_timeout(10_000)
        yield tab
        assert problems == []
        browser.close()


@pytest.mark.browser
def test_a_person_plays_in_the_browser(start: Start, page: Any, tmp_path: Path) -> None:
    page.goto(f"{start().url}/play")
    page.select_option("#environment", "test/Library-v0")
    page.fill("#index", "1")
    page.click("#begin")
    page.wait_for_selector("article[data-role=user]")
    assert "Which number is train 1?" in page.text_content("#messages")
    page.fill("#fields textarea", "Emma <b>bold</b>")
    page.click("#call")
    page.wait_for_selector("article[data-role=tool]")
    assert "1 books" in page.text_content("#messages")
    assert page.locator("#messages b b").count() == 0  # nothing that anybody wrote is markup
    page.fill("#fields textarea", "nothing")
    page.click("#call")
    page.wait_for_selector("article.failed")
    page.fill("#words", "secret-train-1")
    page.click("#say")
    page.locator("#verdict", has_text="score 1 (answer)").wait_for()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "play.png", full_page=True)
    with page.expect_download() as download:
        page.click("#save")
    row = json.loads(Path(download.value.path()).read_text())
    assert [message["role"] for message in row["messages"]][:4] == ["system", "user", "assistant", "tool"]
    page.select_option("#environment", "shop.py:Shop")
    page.click("#begin")
    page.fill("#words", "please")
    page.click("#say")
    page.locator("#verdict", has_text="(user)").wait_for()
