"""Promises about a trajectory in the terminal: all of it is shown, and none of it is active."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from toolrl import Score, Trajectory
from toolrl.view.terminal import print_trajectory


def printed(trajectory: Trajectory, decode: Callable[[list[int]], str] | None = None) -> str:
    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=True, color_system=None)
    print_trajectory(console, trajectory, decode=decode)
    return output.getvalue()


def test_conversation_call_thinking_and_score_are_shown(play: Callable[..., Trajectory]) -> None:
    text = printed(play())
    for part in ("What is 2 + 2?", "Two and two.", "print(2 + 2)", "tool: 4", "<answer>4</answer>", "reward 1.0"):
        assert part in text


def test_control_characters_are_made_visible(play: Callable[..., Trajectory]) -> None:
    text = printed(play(output="\x1b[2J\x07 [red]markup[/red] \u202eback", said="\x1b]0;title\x07"))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "[red]markup[/red]" in text
    text = printed(play(score=Score(1.0, {"\x1b[2J\u202epart": 1.0}, "4", "\x1b[1mwhy")))
    assert not {"\x1b", "\u202e"} & set(text)
    assert "part 1" in text


def test_a_long_text_is_cut_and_says_so(play: Callable[..., Trajectory]) -> None:
    text = printed(play(output="x" * 1_000_000))
    assert len(text) < 20_000
    assert "996,000 more characters" in text


def test_tokens_are_shown_one_by_one(play: Callable[..., Trajectory]) -> None:
    text = printed(play(), decode=lambda ids: f"<{ids[0]}>")
    assert "<5>\u00b7<6>\u00b7<7>\u00b7<8>\u00b7<11>" in text
