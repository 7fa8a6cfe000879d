"""Promises that only a browser can check, here Debian's Chromium: pages work, and hostile text does nothing.

Screenshots are saved in build/screenshots.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.view.conftest import HARMFUL, append_metrics
from toolrl import ToolFailure, Trajectory, TrajectoryWriter
from toolrl.view import load
from toolrl.view.html import notebook_html, table_html, write_page
from toolrl.view.server import PageServer

sync_api = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium, headless."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium found: apt-get install chromium, or set CHROMIUM to its path"
    # As root it cannot use its own sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A tab. After the test: no error in its console, no request to other hosts, and no foreign script ran."""
    context = chromium.new_context(viewport=WIDE, color_scheme="light")
    tab = context.new_page()
    found: list[str] = []
    tab.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("dialog", lambda dialog: (found.append(f"dialog {dialog.message}"), dialog.dismiss()))
    context.on("page", lambda other: found.append(f"opened {other.url}"))
    elsewhere: list[str] = []
    local = ("http://127.0.0.1:", "file://", "data:", "about:")
    context.on("request", lambda request: None if request.url.startswith(local) else elsewhere.append(request.url))
    context.expose_function("owned", lambda number: found.append(f"owned {number}"))
    tab.set_default_timeout(10_000)
    yield tab
    assert found == []
    assert elsewhere == []
    context.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serves runs, opens the page, and returns the address without the path."""
    servers = []

    def start(page: Any, *runs: Path) -> str:
        server = PageServer(runs)
        server.start()
        servers.append(server)
        page.goto(server.url)
        return server.url.split("/?")[0]

    yield start
    for server in servers:
        server.close()


def shot(page: Any, name: str, **options: Any) -> None:
    """Save a screenshot."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), **options)


def fits(page: Any) -> bool:
    """Whether the page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def background(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.evaluate("element => getComputedStyle(element).backgroundColor"))


def test_the_token_leaves_the_address_after_its_first_use(page: Any, serve: Callable[..., str], run: Path) -> None:
    base = serve(page, run)
    assert page.url == f"{base}/"
    page.get_by_role("link", name="first").click()
    assert page.url == f"{base}/run?run=first"
    shot(page, "run")


def test_a_run_is_filtered_and_an_episode_opened_by_keys_alone(page: Any, serve: Callable[..., str], run: Path) -> None:
    serve(page, run)
    for key in ("j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url("**/run?run=first")
    page.keyboard.press("/")
    page.keyboard.type("success == 0 and step < 10")
    page.keyboard.press("Enter")
    page.wait_for_url("**where=success*")
    assert "39 episodes of 120" in page.inner_text(".pager")
    shot(page, "filter")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url("**/episode?*")
    assert "1 of" in page.inner_text(".stepper")
    page.keyboard.press("j")
    expect(page.locator(".stepper")).to_contain_text("2 of")
    shot(page, "episode")
    page.keyboard.press("Escape")
    page.wait_for_url("**/run?*where=success*")


def test_a_mistake_in_a_query_is_shown_next_to_it(page: Any, serve: Callable[..., str], run: Path) -> None:
    page.goto(f"{serve(page, run)}/run?run=first")
    page.fill("#where", "sucess == 0")
    page.get_by_role("button", name="Filter").click()
    assert "did you mean success" in page.get_by_role("alert").inner_text()
    assert page.input_value("#where") == "sucess == 0"
    shot(page, "mistake")


def test_tokens_change_their_colours_and_show_their_ids(page: Any, serve: Callable[..., str], run: Path) -> None:
    (run / "config.yaml").write_text("model_name_or_path: tiny\n")
    page.goto(f"{serve(page, run)}/episode?id=train/s/1/1")
    page.keyboard.press("o")
    token = page.locator(".run .l8").first
    seen = set()
    for view in ("mask", "logprob", "entropy proxy", "advantage"):
        page.get_by_label(view).check()
        seen.add(token.evaluate("element => getComputedStyle(element).backgroundColor"))
        shot(page, f"tokens-{view.split()[0]}")
    assert len(seen) == 4
    token.hover()
    assert "id 8" in page.inner_text(".readout")
    assert "logprob -6.0000" in page.inner_text(".readout")


def test_a_group_is_shown_side_by_side(page: Any, serve: Callable[..., str], run: Path) -> None:
    page.goto(f"{serve(page, run)}/episode?id=train/s/2/1")
    page.keyboard.press("g")
    page.wait_for_url("**/group?*")
    cards = page.locator(".card")
    assert cards.count() == 8
    boxes = [cards.nth(place).bounding_box() for place in range(4)]
    assert len({box["y"] for box in boxes}) == 1
    shot(page, "group")
    cards.nth(7).get_by_role("link", name="compare with the first").click()
    assert page.locator("ins").count() > 0
    shot(page, "diff")


def test_two_runs_are_compared(
    page: Any, serve: Callable[..., str], run: Path, write_run: Callable[..., Path], play: Callable[..., Trajectory]
) -> None:
    other = write_run("second", [play(f"x/{n}", task_id=f"sum-{n}", reward=float(n != 2)) for n in range(10)])
    serve(page, run, other)
    page.get_by_role("link", name="Compare").click()
    whole = page.get_by_role("table", name="Differences").locator("tbody tr").first.inner_text()
    assert whole.startswith("all\t10\t")
    shot(page, "compare")
    page.get_by_role("link", name="A better first").click()
    assert page.locator("tr[data-step] .outcome").first.inner_text() == "A"


def test_a_page_follows_a_run_that_continues(
    page: Any, serve: Callable[..., str], run: Path, play: Callable[..., Trajectory]
) -> None:
    page.goto(f"{serve(page, run)}/run?run=first")
    curve = page.locator(".curve polyline").first.get_attribute("points")
    with TrajectoryWriter(run / "trajectories.jsonl") as writer:
        for number in range(3):
            writer.write(play(f"train/s/99/{number}", question=f"Which is new? {number}"))
    append_metrics(run, range(6, 21))
    page.get_by_text("123 episodes").first.wait_for()
    page.get_by_text("Which is new? 2").wait_for()
    page.get_by_text("step 20").first.wait_for()
    assert page.locator(".curve polyline").first.get_attribute("points") != curve
    page.keyboard.press("j")
    with TrajectoryWriter(run / "trajectories.jsonl") as writer:
        writer.write(play("train/s/100/0", question="Which is newest?"))
    page.get_by_text("Which is newest?").wait_for()
    page.keyboard.press("Enter")  # the focused row keeps the focus
    page.wait_for_url("**/episode?*99%2F2*")


def test_light_dark_and_help_have_their_keys(page: Any, serve: Callable[..., str], run: Path) -> None:
    page.goto(f"{serve(page, run)}/run?run=first")
    light = background(page, "html")
    page.keyboard.press("t")
    assert background(page, "html") != light
    page.reload()
    assert background(page, "html") != light
    shot(page, "run-dark")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    shot(page, "help")
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Light or dark").click()
    assert background(page, "html") == light


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/run?run=first",
        "/episode?run=first&id=train/s/1/0&tokens=1",
        "/compare",
        "/metrics",
        "/group?env=toolrl%2FPythonMath-v0&task=sum-1",
    ],
)
def test_a_phone_shows_every_page_without_scrolling_sideways(
    page: Any, serve: Callable[..., str], run: Path, path: str
) -> None:
    page.set_viewport_size(PHONE)
    page.goto(serve(page, run) + path)
    assert fits(page)
    shot(page, f"phone-{path.split('?')[0].strip('/') or 'runs'}")


# ---- hostile text


@pytest.fixture
def hostile(harmful: Trajectory, play: Callable[..., Trajectory], write_run: Callable[..., Path]) -> Path:
    """A run of hostile episodes: in every text, five megabytes long, and in broken UTF-8."""
    long = play("long", output=HARMFUL + "A" * 5_000_000 + HARMFUL, question="long")
    deep = play("deep", output="\u0301" * 2_000 + "\n" * 3_000 + "\u202e" * 500, said=HARMFUL * 20, question="deep")
    twin = dataclasses.replace(harmful, id="twin")
    folder = write_run("<b>run", [harmful, twin, long, deep])
    row = json.dumps(play("bytes", question="bytes", output="BROKEN").to_row()).encode()
    with (folder / "trajectories.jsonl").open("ab") as file:
        file.write(row.replace(b"BROKEN", b"\xff\xfe\x80 <script>owned(20)</script>") + b"\n")
        file.write(row.replace(b"BROKEN", b"\\ud800 <script>owned(21)</script>") + b"\n")
    return folder


def provoke(page: Any) -> None:
    """Open, point at and focus everything on the page, as a reader might."""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.evaluate(
        """() => document.querySelectorAll('main *').forEach(element => {
            for (const kind of ['pointerover', 'mouseover', 'focus', 'toggle'])
                element.dispatchEvent(new Event(kind, { bubbles: true }));
        })"""
    )
    for _ in range(8):
        page.keyboard.press("Tab")
    page.wait_for_timeout(100)


def intact(page: Any) -> None:
    """No foreign text became an element, and the layout is still ours."""
    assert page.locator("main :is(img, iframe, base, meta, link, object, animate), main script, [onload]").count() == 0
    assert page.locator("main a:not([href^='/'])").count() == 0
    assert fits(page)
    assert page.evaluate("document.querySelector('.top').offsetTop") == 0
    assert page.locator("main").is_visible()


def test_hostile_text_does_nothing_on_any_page(page: Any, serve: Callable[..., str], hostile: Path) -> None:
    base = serve(page, hostile)
    intact(page)
    page.get_by_role("link", name="<b>run").click()
    assert "6 episodes" in page.inner_text(".pager")
    intact(page)
    shot(page, "hostile-run")
    for link in [*page.locator("a[href^='/episode']").evaluate_all("links => links.map(link => link.href)")]:
        page.goto(link)
        provoke(page)
        intact(page)
    page.goto(f"{base}/episode?id=twin")
    assert "<script>owned(1)</script>" in page.inner_text("main")
    shot(page, "hostile-episode", full_page=True)
    page.keyboard.press("g")
    page.wait_for_url("**/group?*")
    provoke(page)
    intact(page)
    page.get_by_role("link", name="compare with the first").first.click()
    provoke(page)
    intact(page)
    page.goto(f"{base}/compare?aw=id=='twin'&bw=id!='twin'")
    intact(page)


def test_five_megabytes_are_read_piece_by_piece_on_the_page(
    page: Any, serve: Callable[..., str], hostile: Path
) -> None:
    page.goto(f"{serve(page, hostile)}/episode?id=long")
    output = page.locator(".output .text")
    left = [output.locator("a.more").inner_text()]
    for pieces in range(2, 5):
        output.locator("a.more").click()
        expect(output.locator("pre")).to_have_count(pieces + 1)
        left.append(output.locator("a.more").inner_text())
    assert len(set(left)) == 4
    assert len(output.inner_text()) > 600_000
    intact(page)


def test_hostile_text_does_nothing_in_a_file_to_share(page: Any, hostile: Path, tmp_path: Path) -> None:
    write_page(load(hostile), tmp_path / "page.html", HARMFUL, HARMFUL)
    page.goto(f"file://{tmp_path}/page.html")
    rows = page.locator("tr[data-episode]")
    for place in range(rows.count()):
        rows.nth(place).locator("td").first.click()
    provoke(page)
    intact(page)
    assert page.locator("tr.opened").count() == rows.count()
    shot(page, "hostile-export")


def test_hostile_text_does_nothing_in_a_notebook(page: Any, harmful: Trajectory, hostile: Path, tmp_path: Path) -> None:
    # A notebook does not have our policy: escaping alone must hold here.
    body = f"<main>{notebook_html(harmful, advantage=1.0)}{table_html(load(hostile))}</main>"
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{body}", "utf-8")
    page.goto(f"file://{tmp_path}/notebook.html")
    provoke(page)
    assert page.locator("main script, main img, main a, [onload]").count() == 0
    frame = page.frame_locator("iframe")
    frame.locator("tr[data-episode] td").first.click()
    assert frame.locator("tr.opened").count() == 1
    shot(page, "notebook")


def test_a_file_to_share_sorts_filters_and_opens(page: Any, run: Path, tmp_path: Path) -> None:
    write_page(load(run), tmp_path / "page.html", "first")
    page.goto(f"file://{tmp_path}/page.html")
    page.get_by_role("button", name="step").click()
    page.get_by_role("button", name="step").click()
    assert "What is 14 + 2?" in page.locator("tbody tr").first.inner_text()
    page.keyboard.press("/")
    page.keyboard.type("failure 12")
    assert page.inner_text("#found") == "4 of 120 episodes"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert page.locator("tr.opened .episode").count() == 1
    shot(page, "export")


# The styles of JupyterLab 4 and its predecessors for everything in an output (packages/rendermime/style/base.css).
NOTEBOOK_STYLES = """
.host .host-inner dt { font-weight: bold; float: left; width: 20%; clear: left }
.host .host-inner dd { float: left; width: 80%; margin-left: 40px }
.host .host-inner p { text-align: left; margin: 0 0 1em }
.host .host-inner :is(h1, h2, h3, h4, h5, h6) { line-height: 1; font-weight: 500; margin: 1.2em 0 .8em }
.host .host-inner :is(pre, code) { border: 0; background-color: #eee; color: #f0f; font-size: inherit; padding: 0 }
.host .host-inner :not(pre) > code { background-color: #eee; padding: 1px 5px }
.host .host-inner table { border-collapse: collapse; border: none; color: #f0f; font-size: 20px; table-layout: fixed;
  margin: 0 auto 1em }
.host .host-inner thead { border-bottom: 1px solid red; vertical-align: bottom }
.host .host-inner :is(td, th, tr) { vertical-align: middle; padding: .5em; line-height: normal; white-space: normal;
  max-width: none; border: none; text-align: right }
.host .host-inner th { font-weight: bold }
.host .host-inner tbody tr:nth-child(even) { background: #ddd }
.host .host-inner :is(img, svg) { max-width: 100%; height: auto }
.host .host-inner a:link { color: red }
.host .host-inner :is(ul, ol) { list-style: disc; padding-left: 2em; margin-bottom: 1em }
"""
STYLES_THAT_SHOW = """() => [...document.querySelectorAll(".toolrl *")].map((element) => {
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  const name = `${element.tagName}.${element.className.baseVal ?? element.className}`;
  return [name, Math.round(box.width), Math.round(box.height),
    ...["float", "color", "backgroundColor", "fontSize", "fontWeight", "textAlign", "padding", "margin", "lineHeight",
        "whiteSpace", "verticalAlign", "borderTopStyle", "tableLayout"].map((name) => style[name])].join(" ");
})"""


def test_the_styles_of_a_notebook_do_not_change_an_episode(page: Any, play: Callable[..., Trajectory]) -> None:
    html = notebook_html(play(failure=ToolFailure.RAISED, error="SandboxFault: gone"), advantage=0.5)
    found = []
    for styles in ("", NOTEBOOK_STYLES):
        page.set_content(f"<style>{styles}</style><div class=host><div class=host-inner>{html}</div></div>")
        found.append(page.evaluate(STYLES_THAT_SHOW))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"notebook-{'styled' if styles else 'plain'}.png", full_page=True)
    assert len(found[0]) > 50
    assert [pair for pair in zip(*found, strict=True) if pair[0] != pair[1]] == []
