"""Promises about untrusted text: all of it is visible, and none of it is active."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, strategies as st

from toolrl.support.visible import plain
from toolrl.view.text import TextLimits, excerpt, marked

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)


@given(ANY_TEXT)
def test_marked_text_has_no_markup_but_ours(text: str) -> None:
    without_ours = re.sub(r'<span class="control" title="[\w +]+">|</span>', "", marked(text))
    assert not re.search(r"[<>\"']", without_ours)


@given(ANY_TEXT)
def test_marked_text_reads_as_plain_text_does(text: str) -> None:
    assert html.unescape(re.sub(r"<[^>]*>", "", marked(text))) == plain(text)


@given(ANY_TEXT)
def test_plain_text_is_valid_utf_8_and_has_no_invisible_characters(text: str) -> None:
    shown = plain(text)
    shown.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x07", "a\u2400b\u2407"),
        ("\x1b[1;31mred\x1b[0m", "\u241b[1;31mred\u241b[0m"),
        ("\u202egnp.exe", "\u27e8RLO\u27e9gnp.exe"),
        ("\ud800", "\u27e8U+D800\u27e9"),
        ("\U000e0041", "\u27e8U+E0041\u27e9"),
        ("one\ttwo\nthree", "one\ttwo\nthree"),
        ("\N{WOMAN}\u200d\N{ROCKET} \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),
    ],
)
def test_only_invisible_characters_get_stand_ins(text: str, shown: str | None) -> None:
    assert plain(text) == (text if shown is None else shown)


def test_an_ansi_escape_is_one_stand_in() -> None:
    assert marked("\x1b[31mred") == '<span class="control" title="terminal escape">\u241b[31m</span>red'


@given(st.text("ab\n", max_size=300), st.integers(1, 10), st.integers(1, 60), st.integers(1, 200))
def test_an_excerpt_is_the_beginning_of_the_text_and_counts_the_rest(
    text: str, lines: int, characters: int, folded: int
) -> None:
    cut = excerpt(text, TextLimits(lines, characters, folded))
    assert text == cut.head + cut.rest + text[cut.shown :]
    assert cut.left_out == len(text) - cut.shown
    assert len(cut.head) <= characters + characters // 8 + 1


def test_a_text_of_megabytes_is_folded_and_cut() -> None:
    cut = excerpt("x" * 5_000_000, TextLimits())
    assert (len(cut.head), len(cut.rest), cut.left_out) == (2_400, 97_600, 4_900_000)


def test_a_text_only_slightly_too_long_is_not_folded() -> None:
    text = "\n".join(map(str, range(26)))
    assert excerpt(text, TextLimits()).head == text
