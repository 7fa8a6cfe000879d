"""How an environment wants its answers written, and which answers are right: what the auditor knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolrl.env import ToolEnv
from toolrl.errors import ToolrlError
from toolrl.rewards import exact_match, find_answer, find_code, numbers_equal
from toolrl.types import Message, Task

Form = Literal["tag", "boxed", "hashes", "json", "code", "plain"]

_FORMS: tuple[Form, ...] = ("tag", "boxed", "hashes", "json", "code")
_mentions: dict[Form, str] = {
    "tag": "<answer>",
    "boxed": "\\boxed",
    "hashes": "####",
    "json": '"answer"',
    "code": "```",
}


@dataclass(frozen=True, slots=True)
class FinalForm:
    r"""How an answer stands in the final message.

    Attributes:
        form: Tags, `\boxed{}`, `####`, a JSON field, a code block, or nothing around it.
        fenced: Whether code stands in a block within tags.
    """

    form: Form = "tag"
    fenced: bool = False

    def write(self, text: str) -> str:
        """A final message with `text` for its answer."""
        if self.fenced:
            text = f"```python\n{text}\n```"
        match self.form:
            case "tag":
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
        match self.form:
            case "plain":
                return message.strip()
            case "code":
                return find_code(message)
            case form:
                return find_answer(message, [form])


def final_form(env: ToolEnv, task: Task, solution: Sequence[Message]) -> FinalForm:
    """Read the form off the oracle's final message, else off the prompts; tags if nothing tells."""
    if solution:
        final = solution[-1].content
        form: Form = next((form for form in _FORMS if FinalForm(form).read(final) is not None), "plain")
        return FinalForm(form, form == "tag" and "```" in final)
    instructions = f"{env.system_prompt}\n{task.prompt}"
    return FinalForm(next((form for form in _FORMS if _mentions[form] in instructions), "tag"))


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
