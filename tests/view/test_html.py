"""Promises about HTML: an episode's facts are in it, and foreign text stays text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from toolrl import Award, Ended, StopReason, ToolFailure, Trajectory
from toolrl.view import load
from toolrl.view.html import notebook_html, page_html, table_html, timing, trajectory_html, write_page
from toolrl.view.text import TextLimits

OURS = """
article aside code dd details div dl dt fieldset figcaption figure form h4 h5 header i input label legend output p pre
rect section span strong style summary svg table td th title tr
"""


class Elements(HTMLParser):
    """Collects elements, attributes and text as a browser would find them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: dict[str, str | None] = {}
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_an_episode_shows_what_happened_and_how_it_was_graded(play: Callable[..., Trajectory]) -> None:
    html = trajectory_html(play(failure=ToolFailure.RAISED, output="ZeroDivisionError"), advantage=0.93)
    text = "".join(Elements(html).text)
    shown = ("What is 2 + 2?", "print(2 + 2)", "ZeroDivisionError", "raised", "Two and two.", "<answer>4</answer>")
    for part in (*shown, "success", "economy", "0.90", "+0.93", "right", "train", "parsed answer"):
        assert part in text, part


def test_an_unscored_episode_says_why(play: Callable[..., Trajectory]) -> None:
    text = "".join(Elements(trajectory_html(play(reward=None, error="SandboxFault: it died"))).text)
    assert "unscored" in text
    assert "SandboxFault: it died" in text


def test_an_episode_shows_what_the_user_said_what_was_awarded_and_who_ended_it(
    play: Callable[..., Trajectory],
) -> None:
    call, answer = play().turns
    ending = replace(call.results[0], ended=Ended("4", "filed"))
    turns = (replace(answer, reply="And 2 + 2?", awards=(Award(0.5, "polite"),)), replace(call, results=(ending,)))
    page = trajectory_html(play(turns=turns, stop=StopReason.TOOL, ending="filed"))
    for shown in ("And 2 + 2?", "awarded +0.5", "polite", "ended the episode: filed", "<dd>tool: filed</dd>"):
        assert shown in page


def test_foreign_text_adds_no_element_and_no_attribute(harmful: Trajectory) -> None:
    found = Elements(trajectory_html(harmful, advantage=-1.0))
    assert found.tags <= set(OURS.split())
    assert not [name for name in found.attributes if name.startswith("on") or name in ("href", "src", "style")]
    text = "".join(found.text)
    assert "<script>owned(1)</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert "\u27e8RLO\u27e9" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_a_lone_surrogate_can_be_shown_and_written(play: Callable[..., Trajectory]) -> None:
    html = notebook_html(play(output="\ud83d half of a pair"))
    assert "U+D83D" in html
    html.encode("utf-8")


def test_long_texts_are_folded_and_omitted_characters_are_counted(play: Callable[..., Trajectory]) -> None:
    html = notebook_html(play(output="line\n" * 1_000_000))
    assert len(html) < 200_000
    assert re.search(r"[\d,]+ more characters are not shown here", html)


def test_a_notebook_shows_a_trajectory_without_any_script(play: Callable[..., Trajectory]) -> None:
    html = notebook_html(play())
    assert "What is 2 + 2?" in html
    assert "script" not in Elements(html).tags


def test_ipython_shows_a_trajectory_as_html_and_imports_the_viewer_only_then() -> None:
    code = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import toolrl
trajectory = toolrl.Trajectory("a", "env", "task", (), [], (), toolrl.Score(1.0), toolrl.StopReason.ANSWER)
early = "toolrl.view.html" in sys.modules
print(early, "<" in shell.display_formatter.format(trajectory)[0]["text/html"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_timing_bar_covers_the_whole_time(play: Callable[..., Trajectory]) -> None:
    segments = timing(play())
    assert [(s.kind, s.seconds) for s in segments] == [
        ("generation", 1.5), ("tools", 0.25), ("generation", 0.5), ("other", pytest.approx(0.25)),
    ]  # fmt: skip
    assert sum(segment.width for segment in segments) == pytest.approx(1000)


def test_a_collection_is_shown_as_a_table_of_bounded_size(run: Path, play: Callable[..., Trajectory]) -> None:
    html = load(run)._repr_html_()
    assert "120 episodes" in html
    assert "sandbox=" in html
    assert "allow-same-origin" not in html
    assert len(html) < 250_000


def test_a_table_stays_in_its_frame(run: Path) -> None:
    """The page is the frame's attribute as a whole, whatever its texts quote."""
    episodes = load(run)
    page = page_html(episodes[:3], "Episodes", limits=TextLimits(folded=20_000), tokens=False)
    assert "'" in page
    assert "&" in page
    frame = Elements(table_html(episodes[:3]))
    assert frame.tags == {"p", "iframe"}
    assert frame.values["srcdoc"] == page


def test_a_table_shows_what_tells_its_rows_apart(run: Path) -> None:
    """What they share is said once; a single row shows all."""

    def shown(query: str) -> tuple[list[str], str]:
        page = page_html(load(run).where(query), "Episodes")
        shared = re.search(r"All: (.*?)</p>", page)
        return re.findall(r'<button type="button">([a-z ]+)</button>', page), shared[1] if shared else ""

    columns, shared = shown("step >= 0")
    assert {"outcome", "question", "reward", "step"} <= set(columns)
    assert "run" not in columns
    assert shared.startswith("run ")
    assert ", environment " in shared
    columns, shared = shown("step == 7")
    assert "step" not in columns
    assert shared.endswith("step 7")
    columns, shared = shown("id == 'train/s/7/1'")
    assert {"run", "environment", "step", "mode"} <= set(columns)
    assert shared == ""
    assert shown("step == 999") == (columns, "")


def test_rows_open_up_to_the_limit_of_bytes(run: Path) -> None:
    page = page_html(load(run), "Episodes", limit_bytes=50_000)
    opened = page.count("<template")
    assert 0 < opened < 120
    assert f"Only the first {opened} rows open" in page


def test_an_exported_page_is_self_contained_and_allows_nothing_else(run: Path, tmp_path: Path) -> None:
    size = write_page(load(run)[:5], tmp_path / "page.html", "first")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert size == len(page.encode())
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:,)", page)
    assert page.count("<template") == 5


def test_a_collection_shows_a_trajectory_with_the_facts_of_its_run(run: Path) -> None:
    episodes = load(run)
    (run / "config.yaml").write_text("model_name_or_path: tiny\n")
    shown = episodes.show("train/s/7/1")
    assert shown.trajectory.id == "train/s/7/1"
    assert repr(shown) == "TrajectoryDisplay('train/s/7/1')"
    html = shown._repr_html_()
    assert "+0.94" in html
    assert "The run has no tokenizer" not in html
    assert episodes.where("step == 7").show(1) == shown
    with pytest.raises(KeyError):
        episodes.show("none")
    with pytest.raises(IndexError):
        episodes.show(120)
