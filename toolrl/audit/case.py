"""What an exploit sees of a task: how answers are written here, what the oracle does, which answers are wrong."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from toolrl.audit.schemas import find_code_tool, find_search_tool
from toolrl.env import ToolEnv, call
from toolrl.errors import ConfigError, ToolrlError
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
_DECOYS = 4
_OTHER_DECOYS = ("17", "Springfield", "None", "2", "no", "3.5")


@dataclass(frozen=True, slots=True)
class FinalForm:
    r"""How the final message marks the answer.

    Attributes:
        form: Tags, `\boxed{}`, `####`, a JSON field, a code block, or nothing around it.
        fenced: Whether the answer is a code block inside tags.
    """

    form: Form = "tag"
    fenced: bool = False

    def write(self, text: str) -> str:
        """A final message with `text` as its answer."""
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
        """The only answer in a final message; None if it has no answer, or several."""
        match self.form:
            case "plain":
                return message.strip()
            case "code":
                return find_code(message)
            case form:
                return find_answer(message, [form])


def final_form(env: ToolEnv, task: Task, solution: Sequence[Message]) -> FinalForm:
    """Infer the form from the oracle's final message, else from the prompts; tags by default."""
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
    """The right answers as text if `task.answer` is text, a number, or a list of these; otherwise empty."""
    golds = task.answer if isinstance(task.answer, (list, tuple)) else [task.answer]
    if not all(isinstance(gold, (str, int, float)) for gold in golds):
        return ()
    return tuple(text for gold in golds if (text := str(gold).strip()))


def is_right(answer: str | None, task: Task) -> bool:
    """Whether an answer is simply right, so that its reward is not a leak."""
    if not answer:
        return False
    return any(exact_match(answer, gold) or numbers_equal(answer, gold) for gold in right_answers(task))


@dataclass(frozen=True)
class Case:
    """What an exploit sees: the task without its answer, and what a policy could learn about the environment.

    Attributes:
        task: Without `answer` and `metadata`.
        system_prompt: As the model sees it.
        schemas: The tools, as the model sees them.
        form: How final answers are written here.
        solution: The oracle's messages, for exploits that do the work and then withhold the answer. An episode
            that ends with the last of them has solved the task.
        code: The code that the oracle submits, if the task asks for code; for its shape, not its content.
        has_user: Whether a user answers when the policy speaks.
        decoys: Answers to other tasks.
        options: `decoys` and the right answer, in an order that does not reveal it; empty if the right answer is
            neither text nor a number.
    """

    task: Task
    system_prompt: str = ""
    schemas: Sequence[Mapping[str, Any]] = ()
    form: FinalForm = field(default_factory=FinalForm)
    solution: tuple[Message, ...] = ()
    code: str = ""
    has_user: bool = False
    decoys: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The task's text."""
        return self.task.prompt

    def final(self, text: str) -> str:
        """A final message with `text` as its answer."""
        return self.form.write(text)

    def run(self, code: str) -> Message:
        """A call to the tool that runs code."""
        return _call(find_code_tool(self.schemas), code)

    def search(self, query: str) -> Message:
        """A call to the tool that searches."""
        return _call(find_search_tool(self.schemas), query)

    @property
    def right_answer(self) -> str:
        """The right answer among the options; empty if there are none."""
        return next((option for option in self.options if option not in self.decoys), "")

    @property
    def stated_answer(self) -> str:
        """The answer marked in the oracle's final message; empty if there is none, or if it is code."""
        if self.code or not self.solution or self.form.form == "plain":
            return ""
        return self.form.read(self.solution[-1].content) or ""

    @property
    def hedges(self) -> list[list[str]]:
        """The options in three orders: the right one first, in the middle, last. Listing them all is hedging."""
        right = [self.right_answer] if self.right_answer else []
        half = len(self.decoys) // 2
        others = list(self.decoys)
        return [right + others, others[:half] + right + others[half:], others + right] if right else []

    @property
    def function_name(self) -> str:
        """The name of the function that the task asks for; "solution" by default."""
        for text in (self.prompt, self.code):
            if found := re.search(r"\bdef\s+(\w+)\s*\(", text):
                return found.group(1)
        if found := re.search(r"(?:named|called|function)\s+[`'\"]?(\w+)[`'\"]?|`(\w+)\(", self.prompt):
            return found.group(1) or found.group(2)
        return "solution"


def _call(found: tuple[str, Callable[[str], Any]] | None, text: str) -> Message:
    if found is None:
        raise ConfigError("this environment has no such tool; declare what the exploit needs with `needs=`")
    name, arguments = found
    return call(name, **arguments(text))


def make_case(env: ToolEnv, task: Task) -> Case:
    """Collect what exploits see of a task."""
    solution = solution_of(env, task)
    form = final_form(env, task, solution)
    golds = right_answers(task)
    final = solution[-1].content if solution else ""
    code = final if "def " in final or "```" in final else ""
    if code or (solution and not is_right(form.read(final), task)):
        golds = ()  # a state or the behaviour of code is graded: a list of programs may well solve the task
    decoys = _decoys(env, task) if golds else ()
    options = sorted({*decoys, *golds[:1]}, key=lambda text: random.Random(f"{task.id}/{text}").random())
    return Case(
        replace(task, answer=None, metadata={}),
        env.system_prompt,
        env.toolbox.schemas,
        form,
        solution,
        code,
        env.user is not None,
        decoys,
        tuple(options),
    )


def _decoys(env: ToolEnv, task: Task) -> tuple[str, ...]:
    others = random.Random(task.id).sample(list(env.tasks), min(len(env.tasks), 10 * _DECOYS))
    texts = [*(gold for other in others for gold in right_answers(other)[:1]), *_OTHER_DECOYS]
    wrong = dict.fromkeys(text for text in texts if not is_right(text, task))
    return tuple(wrong)[:_DECOYS]
