"""Checks that play no episode: contract, determinism, tasks, splits, prompts."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import gymnasium
from gymnasium.utils.env_checker import check_env

from toolrl.audit.case import right_answers
from toolrl.audit.report import Finding
from toolrl.audit.subject import Subject, options_of
from toolrl.env import ToolEnv
from toolrl.types import Task

_SEEDS = range(8)
_FEW_ANSWERS = 10
_SCHEMA_CHARACTERS = 20_000
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>|</?(?:tool_call|tool_response|tool_result|think)>|\[/?INST\]|<<?/?SYS>?>")
_HIDDEN = ("Cc", "Cf", "Co", "Cs")
_REVEALING = r"(?:answer|solution|expected|result|gold|label|boxed)[\w\s]{0,12}(?:[:=>{]|is|####)+\s*[\"'`*{]*"


def check_contract(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Gymnasium's own checker passes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=env.render_mode is None)
        except (AssertionError, gymnasium.error.Error, ValueError, TypeError) as error:
            yield Finding("contract", f"Gymnasium's check_env fails: {error}", "see gymnasium.utils.env_checker")
    for warning in caught:
        message = re.sub(r"\x1b\[\d+m", "", str(warning.message)).removeprefix("WARN: ")
        if issubclass(warning.category, UserWarning):
            yield Finding("contract", message, "see gymnasium.utils.env_checker", severity="warning")


def check_determinism(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """The same seed gives the same task and observation; the same settings give the same tasks."""
    remedy = "draw from self.np_random or your own random.Random(seed), never from time, hash() or the order of a set"
    starts = []
    for seed in _SEEDS:
        (first, first_info), first_task = env.reset(seed=seed), env.task
        (second, second_info), second_task = env.reset(seed=seed), env.task
        if first != second or first_info.get("task_id") != second_info.get("task_id"):
            message = f"reset(seed={seed}) gave {first[:80]!r}, then {second[:80]!r}"
            yield Finding("determinism", message, remedy, str(first_info.get("task_id", "")))
            break
        if difference := _difference(first_task, second_task):
            message = f"reset(seed={seed}) gave two tasks with the same prompt: {difference}"
            yield Finding("determinism", message, remedy, str(first_info.get("task_id", "")))
            break
        starts.append((first, first_info.get("task_id")))  # what only the user knows is not in the prompt
    else:
        if len(env.tasks) > 1 and len(set(starts)) == 1:
            yield Finding(
                "determinism", f"all of {len(_SEEDS)} seeds give the same task", "let reset choose the task by its seed"
            )
    if subject.can_be_made_again:
        with subject.open() as again:
            if len(again.tasks) != len(env.tasks):
                message = f"made twice with the same settings, it has {len(env.tasks)} tasks, then {len(again.tasks)}"
                yield Finding("determinism", message, remedy)
            for task, other in zip(env.tasks, again.tasks, strict=False):
                if difference := _difference(task, other):
                    message = f"made twice with the same settings, its tasks differ: {difference}"
                    yield Finding("determinism", message, remedy, task.id)
                    break


def _difference(task: Task | None, other: Task | None) -> str:
    """Describe the first field in which two tasks differ when written as JSON; empty if none does."""
    if task is None or other is None:
        return ""
    for name in ("id", "prompt", "answer", "metadata"):
        first, second = (json.dumps(getattr(one, name), default=repr, sort_keys=True) for one in (task, other))
        if first != second:
            return f"{name} {first[:80]}, then {second[:80]}"
    return ""


def check_tasks(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Ids are unique, prompts are in the observation space, answers can be stored as JSON."""
    id, count = Counter(task.id for task in env.tasks).most_common(1)[0]
    if count > 1:
        yield Finding("tasks", f"{count} tasks have the id {id!r}", "make ids unique, for example with a hash", id)
    for task in env.tasks:
        if not isinstance(task.prompt, str) or not task.prompt.strip():
            yield Finding("tasks", f"the prompt is {task.prompt!r}", "give every task a prompt", task.id)
            break
        if task.prompt not in env.observation_space:
            message = f"the prompt of {len(task.prompt)} characters is not in the observation space"
            yield Finding("tasks", message, "shorten it, or enlarge the space", task.id)
            break
    for task in tasks:
        try:
            json.dumps(task.answer)
        except (TypeError, ValueError) as error:
            yield Finding("tasks", f"the answer cannot be stored as JSON: {error}", "use plain values", task.id)
            break


def check_splits(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Train and test share no id and no prompt."""
    with subject.open(split="train") as train, subject.open(split="test") as test:
        for attribute in ("id", "prompt"):
            known = {getattr(task, attribute): task.id for task in train.tasks}
            shared = [task for task in test.tasks if getattr(task, attribute) in known]
            if shared:
                message = f"{len(shared)} of {len(test.tasks)} test tasks have the {attribute} of a train task"
                yield Finding("splits", message, "split by subject, before the prompts are worded", shared[0].id)


def check_schemas(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Names and descriptions of tools are plain text of a reasonable length: others may have written them."""
    remedy = "reword it; what a tool server says of its tools is read by the model before any task"
    for schema in env.toolbox.schemas:
        name, text = schema["function"]["name"], json.dumps(schema, ensure_ascii=False)
        if control := _CONTROL.search(text):
            yield Finding("schemas", f"tool {name!r} is described with the control token {control.group()!r}", remedy)
        if hidden := next((one for one in text if unicodedata.category(one) in _HIDDEN), ""):
            yield Finding("schemas", f"tool {name!r} is described with the invisible character {hidden!a}", remedy)
        if len(text) > _SCHEMA_CHARACTERS:
            yield Finding("schemas", f"tool {name!r} is described in {len(text):,} characters", remedy)


def check_prompts(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """The answer is not in the prompt, unless it is one of the choices."""
    holding = []
    remedy = "remove the answer, or declare AuditOptions(answer_in_prompt='why')"
    for task in tasks:
        shown = f"{env.system_prompt}\n{task.prompt}\n{json.dumps(env.toolbox.schemas, ensure_ascii=False)}"
        golds = [re.escape(gold) for gold in right_answers(task)]
        if not golds:
            continue
        gold = rf"(?<![\w.])(?:{'|'.join(golds)})(?![\w])"
        revealed = re.search(_REVEALING + gold, shown, re.IGNORECASE)
        if revealed and not _is_choice(env, task) and not options_of(env).answer_in_prompt:
            yield Finding("prompts", f"the prompt reveals the answer: {revealed.group()!r}", remedy, task.id)
            return
        if re.search(gold, shown, re.IGNORECASE):
            holding.append(task)
    if not holding:
        return
    excuse = options_of(env).answer_in_prompt
    if not excuse and len(holding) < len(tasks):
        excuse = "the prompt may not reveal which part is the answer"
    elif not excuse and all(_is_choice(env, task) for task in holding):
        excuse = "the answers are a few fixed choices"
    message = f"the answer is in the prompt of {len(holding)} of {len(tasks)} tasks"
    if excuse:
        yield Finding("prompts", f"{message} ({excuse})", "make sure that this is intended", holding[0].id, "warning")
    else:
        yield Finding("prompts", message, remedy, holding[0].id)


def _is_choice(env: ToolEnv, task: Task) -> bool:
    """Whether the answer is one of a few in the environment, or of the choices that the task lists."""
    golds = set(right_answers(task))
    listed = task.metadata.get("choices") or task.metadata.get("options") or ()
    if golds & set(map(str, listed)):
        return True
    answers = {str(other.answer) for other in env.tasks}
    return len(answers) <= _FEW_ANSWERS and len(env.tasks) > 2 * len(answers)
