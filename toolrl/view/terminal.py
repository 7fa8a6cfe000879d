"""A trajectory in the terminal. Text of models, tools and pages is shown without markup or control characters."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from toolrl.support.secret_values import hide
from toolrl.support.visible import plain
from toolrl.trajectory import Trajectory

_CHARACTERS = 4_000


def print_trajectory(
    console: Console, trajectory: Trajectory, *, decode: Callable[[list[int]], str] | None = None
) -> None:
    """Print a trajectory: its conversation and its score.

    Args:
        console: Where to print.
        trajectory: The trajectory.
        decode: Turns token ids into text. If given, the completion's tokens are printed too, the environment's dimmed.
    """
    console.rule(Text(plain(f"{trajectory.env_id} {trajectory.task_id}")), style="dim")
    for message in trajectory.messages:
        if message.thinking:
            console.print(Text(shown(message.thinking), style="dim italic"), soft_wrap=True)
        console.print(Text(f"{message.role}: ", style="bold"), Text(shown(message.content)), sep="", soft_wrap=True)
        for call in message.tool_calls:
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            console.print(Text(f"  -> {plain(call.name) or '?'} {shown(arguments)}", style="cyan"), soft_wrap=True)
            if call.error:
                console.print(Text(f"     {shown(call.error)}", style="red"), soft_wrap=True)
    if decode is not None:
        console.print(_tokens(trajectory, decode), soft_wrap=True)
    print_verdict(console, trajectory)


def print_verdict(console: Console, trajectory: Trajectory) -> None:
    """Print the score with its parts, and why the episode ended."""
    score = trajectory.score
    parts = "  ".join(f"{plain(name)} {value:g}" for name, value in score.parts.items())
    ending = trajectory.ending and f": {shown(trajectory.ending)}"
    verdict = f"reward {score.value}  {parts}  {shown(score.reason)}  ({trajectory.stop}{ending})"
    console.print(Text(verdict, style="dim"), soft_wrap=True)


def shown(text: str) -> str:
    """Text of models and tools for the terminal: without secrets and control characters, and cut."""
    text = hide(text)
    left_out = len(text) - _CHARACTERS
    return plain(text[:_CHARACTERS]) + (f" ... {left_out:,} more characters" if left_out > 0 else "")


def _tokens(trajectory: Trajectory, decode: Callable[[list[int]], str]) -> Text:
    text = Text()
    for token, sampled in zip(trajectory.completion_ids, trajectory.mask, strict=True):
        shown = plain(decode([token])).replace("\n", "\u240a")
        text.append(shown, style="black on green" if sampled else "dim")
        text.append("\u00b7", style="dim")
    return text
