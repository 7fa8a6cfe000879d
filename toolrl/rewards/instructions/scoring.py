"""IFEval's file format, its two scores, and a reward made of them.

Source: "Instruction-Following Evaluation for Large Language Models" (arXiv:2311.07911), section 3, and
https://github.com/google-research/google-research/tree/master/instruction_following_eval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from toolrl.errors import ConfigError, TaskError
from toolrl.rewards.economy import check_call_cost, partial_value, with_call_cost
from toolrl.rewards.instructions.registry import Instruction, make_instruction
from toolrl.types import Episode, Score, Task

Mode = Literal["strict", "loose"]

_word = re.compile(r"\w+")


def ifeval_task(row: Mapping[str, Any], index: int | str) -> Task:
    """Read a row of a file in IFEval's format; pass this function to `TaskSet.read`.

    Args:
        row: Has `prompt`, `instruction_id_list`, `kwargs` with an entry for each instruction, and optionally a `key`.
        index: Replaces a missing key.

    Returns:
        A task whose answer can be read by `instructions_of`.

    Raises:
        KeyError: A field is missing; the task set reports the file and the line.
        TaskError: An instruction is unknown, or its arguments are invalid.
        MissingExtra: An instruction needs langdetect, which is not installed.
    """
    ids, kwargs = row["instruction_id_list"], row["kwargs"]
    if not isinstance(ids, list) or not isinstance(kwargs, list):
        raise TaskError(f"instruction_id_list and kwargs must be lists, got {ids!r} and {kwargs!r}")
    arguments = [{name: value for name, value in (entry or {}).items() if value is not None} for entry in kwargs]
    answer = {"instruction_id_list": ids, "kwargs": arguments}
    _instructions(answer)
    key = str(index if row.get("key") is None else row["key"])
    return Task(key, row["prompt"], answer, {"instructions": len(ids)}, kind=ids[0], needs_tool=False)


def instructions_of(task: Task) -> list[Instruction]:
    """The instructions of a task, read from its answer: `{"instruction_id_list": ..., "kwargs": ...}`.

    Raises:
        TaskError: The answer has another form, an instruction is unknown, or its arguments are invalid.
    """
    try:
        return _instructions(task.answer)
    except TaskError as error:
        raise TaskError(f"task {task.id!r}: {error}") from None


def follows_strictly(instruction: Instruction, response: str) -> bool:
    """Whether the response follows the instruction as it is. A blank response follows none."""
    return bool(response.strip()) and instruction.check(response)


def follows_loosely(instruction: Instruction, response: str) -> bool:
    """Whether the response follows the instruction, perhaps without its first line, last line or asterisks."""
    return any(follows_strictly(instruction, variant) for variant in _variants(response))


def is_echo(response: str, prompt: str) -> bool:
    """Whether a response only repeats the prompt, once or several times, or at least half of it.

    Only words are compared; case and punctuation do not matter.
    """
    given, asked = (f" {' '.join(_word.findall(text.casefold()))} " for text in (response, prompt))
    if not asked.strip():
        return False
    is_part = given in asked and 2 * len(given) >= len(asked)
    return is_part or not given.replace(asked.rstrip(), "").strip()


def instructions_reward(
    mode: Mode = "strict", *, partial: bool = False, call_cost: float = 0.0
) -> Callable[[Task, Episode], Score]:
    """Make a reward for verifiable instructions; the whole final message is the response.

    Its parts are `correct` (every instruction is followed, in this mode), IFEval's prompt-level and instruction-level
    scores in both modes, and for each kind the share of its instructions that are followed (in this mode). A blank
    response and an echo of the prompt (`is_echo`) follow nothing, in either mode.

    Args:
        mode: "strict" checks the response as it is; "loose" also without its first line, last line and asterisks.
        partial: Whether following some of the instructions earns their share.
        call_cost: Deducted for each tool call from a response that follows all instructions; see `with_call_cost`.
            With a cost, a response that follows some of them earns half their share, which is always less.

    Raises:
        ConfigError: `mode` is unknown, or `call_cost` is negative.
    """
    if mode not in ("strict", "loose"):
        raise ConfigError(f"mode must be 'strict' or 'loose', got {mode!r}")
    check_call_cost(call_cost)

    def reward(task: Task, episode: Episode) -> Score:
        instructions, response = instructions_of(task), episode.answer or ""
        echo = is_echo(response, task.prompt)
        strict = [not echo and follows_strictly(instruction, response) for instruction in instructions]
        loose = [
            is_strict or (not echo and follows_loosely(instruction, response))
            for is_strict, instruction in zip(strict, instructions, strict=True)
        ]
        followed = strict if mode == "strict" else loose
        parts = {"correct": float(all(followed))} | _shares(instructions, followed)
        for name, verdicts in (("strict", strict), ("loose", loose)):
            parts |= {f"prompt_{name}": float(all(verdicts)), f"instruction_{name}": _mean(verdicts)}
        if all(followed):
            return with_call_cost(Score(1.0, parts, response, "all followed"), episode, call_cost)
        broken = ", ".join(repr(one) for one, kept in zip(instructions, followed, strict=True) if not kept)
        reason = "it only repeats the prompt" if echo else f"not followed: {broken}"
        if not response.strip():
            reason = "no final message" if episode.answer is None else "the final message is blank"
        value = partial_value(_mean(followed), call_cost) if partial else 0.0
        return Score(value, parts, episode.answer, reason)

    return reward


def _instructions(answer: Any) -> list[Instruction]:
    try:
        ids, kwargs = answer["instruction_id_list"], answer["kwargs"]
    except (TypeError, KeyError):
        raise TaskError(f"expected an object with instruction_id_list and kwargs, got {answer!r}") from None
    if not ids or len(ids) != len(kwargs):
        raise TaskError(f"expected instructions and kwargs for each, got {len(ids)} ids and {len(kwargs)} kwargs")
    return [make_instruction(id, arguments) for id, arguments in zip(ids, kwargs, strict=True)]


def _variants(response: str) -> list[str]:
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def _shares(instructions: Sequence[Instruction], followed: Sequence[bool]) -> dict[str, float]:
    """For each kind, the share of its instructions that are followed."""
    by_kind: dict[str, list[bool]] = {}
    for instruction, kept in zip(instructions, followed, strict=True):
        by_kind.setdefault(instruction.id, []).append(kept)
    return {id: _mean(verdicts) for id, verdicts in by_kind.items()}


def _mean(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)
