"""Promises about the page of a report: it is self-contained, its numbers open episodes, and nothing in them is HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.view.episodes import episode
from tests.view.test_html import Elements
from toolrl import Score, load
from toolrl.errors import QueryError
from toolrl.view.report import report_on


@pytest.fixture
def run(write: Callable[..., Path]) -> Path:
    parts = [{"correct": float(n % 2), "confidence": (0.9, 0.6)[n % 3 == 0]} for n in range(12)]
    return write(
        *(
            episode(f"e{n}", f"t{n}", score=Score(float(n % 2), parts[n], "42"), info={"level": n % 2})
            for n in range(11)
        ),
        episode("hostile", "t11", score=Score(0.0, parts[0], "<script>alert(1)</script>"), info={"level": "<b>x</b>"}),
    )


def test_a_page_is_self_contained_and_each_number_opens_episodes(run: Path) -> None:
    found = report_on(load(run), by=("level",))
    page = found.page_html()
    links = set(re.findall(r'href="#(episode-\d+)"', page))
    assert len(links) >= 10
    for link in links:
        assert page.count(f'id="{link}"') == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("data:image/png;base64,") == 2
    assert "default-src &#39;none&#39;" in page
    assert "img-src data:" in page  # else its figures would not show


def test_what_episodes_say_is_text(run: Path) -> None:
    page = report_on(load(run), by=("level",)).page_html()
    assert "<script>alert" not in page
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_a_notebook_shows_it_and_a_file_holds_it(run: Path, tmp_path: Path) -> None:
    found = report_on(load(run), name="mine")
    assert repr(found) == "ReportDisplay('mine', 12 episodes)"
    assert "mine" in found._repr_html_()
    assert len(found._repr_html_()) < len(found.page_html())
    assert "episodes that stand for it" not in found._repr_html_()
    frame = Elements(found._repr_html_())
    assert frame.tags == {"p", "iframe"}  # the page is the frame's attribute as a whole
    assert frame.values["srcdoc"] == found.page_html(episodes=False)
    assert found.write(tmp_path / "report.html") == (tmp_path / "report.html").stat().st_size
    assert list(found.figures()) == ["success", "reliability"]


def test_parts_by_what_is_not_recorded_are_refused(run: Path) -> None:
    with pytest.raises(QueryError, match="no field or recorded fact 'colour'"):
        report_on(load(run), by=("colour",))
