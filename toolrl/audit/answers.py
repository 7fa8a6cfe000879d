"""How an environment wants its answers written, and which answers are right: what the auditor knows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolrl.env import ToolEnv
from toolrl.errors import ToolrlError
from toolrl.rewards import exact_match, numbers_equal
from toolrl.types import Message, Task

Style = Literal["tags", "boxed", "hashes", "json", "code", "plain"]

_patterns: dict[Style, re.Pattern[str]] = {
    "tags": re.compile(r"<answer>(.*?)</answer>", re.DOTALL),
    "boxed": re.compile(r"\\boxed\{([^{}]*)\}"),
    "hashes": re.compile(r"####\s*([^\n]+)"),
    "json": re.compile(r"(\{[^{}]*\"answer\"[^{}]*\})"),
    "code": re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL),
}
_mentions = {"tags": "<answer>", "boxed": "\\boxed", "hashes": "####", "json": '"answer"', "code": "```"}


@dataclass(frozen=True, slots=True)
class AnswerForm:
    r"""How an answer stands in the final message.

    Attributes:
        style: Tags, `\boxed{}`, `####`, a JSON field, a code block, or nothing around it.
        fenced: Whether code stands in a block within tags.
    """

    style: Style = "tags"
    fenced: bool = False

    def write(self, text: str) -> str:
        """A final message with `text` for its answer."""
        if self.fenced:
            text = f"```python\n{text}\n```"
        match self.style:
            case "tags":
                return f"<answer>{text}</answer>"
            case "boxed":
                return f"\\boxed{{{text}}}"
            case "hashes":
                return f"#### {text}"
            case "json":
                return json.dumps({"answer": text}, ensure_ascii=False)
            case "code":
                return f"```python\n{text}\n```"
            case "plain":
                return text

    def read(self, message: str) -> str | None:
        """The one answer in a final message; None if there is none, or several."""
        if self.style == "plain":
            return message.strip()
        found = _patterns[self.style].findall(message)
        if len(found) != 1:
            return None
        if self.style != "json":
            return str(found[0]).strip()
        try:
            return str(json.loads(found[0]).get("answer", "")).strip()
        except ValueError:
            return None


def answer_form(env: ToolEnv, task: Task, solution: Sequence[Message]) -> AnswerForm:
    """Read the form off the oracle's final message, else off the prompts; tags if nothing tells."""
    styles: tuple[Style, ...] = ("tags", "boxed", "hashes", "json", "code")
    if solution:
        final = solution[-1].content
        style: Style = next((style for style in styles if _patterns[style].search(final)), "plain")
        return AnswerForm(style, style == "tags" and "```" in final)
    instructions = f"{env.system_prompt}\n{task.prompt}"
    return AnswerForm(next((style for style in styles if _mentions[style] in instructions), "tags"))


def solution_of(env: ToolEnv, task: Task) -> tuple[Message, ...]:
    """The oracle's messages; empty without an oracle."""
    try:
        return tuple(env.oracle(task))
    except ToolrlError:
        return ()


def right_answers(task: Task) -> tuple[str, ...]:
    """The right answers as texts, where `task.answer` is a text, a number, or a list of them; else nothing."""
    golds = task.answer if isinstance(task.answer, (list, tuple)) else [task.answer]
    if not all(isinstance(gold, (str, int, float)) for gold in golds):
        return ()
    return tuple(text for gold in golds if (text := str(gold).strip()))


def is_right(answer: str | None, task: Task) -> bool:
    """Whether an answer is one of the right ones by itself, so that its reward is no leak."""
    if not answer:
        return False
    return any(exact_match(answer, gold) or numbers_equal(answer, gold) for gold in right_answers(task))
