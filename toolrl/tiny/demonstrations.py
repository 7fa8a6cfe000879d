"""Deliberately mediocre demonstrations, of a policy that knows the format but not when or how to use it.

Each is played against the real environment, so the observations are real. The mistakes are those that reinforcement
learning has to unlearn: guessing, answering in the wrong form, broken syntax, useless calls, stopping half way,
computing what needs no computer, claiming a change that was not made.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from toolrl.chat import Renderer
from toolrl.env import ToolEnv, call, say
from toolrl.errors import ConfigError
from toolrl.policy import ScriptedPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Task

# Shares of the habits, on tasks that need a tool and on those that do not.
NEEDED = {"solve": 0.10, "untagged": 0.36, "guess": 0.21, "stop_early": 0.08, "break": 0.15, "useless": 0.10}
# On tasks that ask for a change; "claim" omits the last call and answers.
CHANGING = NEEDED | {"untagged": 0.26, "guess": 0.11, "claim": 0.20}
NEEDLESS = {"solve": 0.05, "compute": 0.10, "untagged": 0.50, "guess": 0.13, "break": 0.12, "useless": 0.10}
# For correct demonstrations.
SKILLED = {"solve": 1.0}
# Share of demonstrations on tasks that need no tool, if an environment has such tasks.
NEEDLESS_SHARE = 0.6
# After a broken or useless call, how often the demonstrator goes on to solve the task.
RECOVERS = 0.4


@dataclass(frozen=True)
class Demonstrator:
    """Writes the turns of one demonstration."""

    env: ToolEnv
    renderer: Renderer
    skilled: bool = False

    def turns(self, task: Task, rng: random.Random) -> list[list[int]]:
        """Draw a habit and write it out as token ids, one list per turn."""
        habits = SKILLED if self.skilled else habits_on(task)
        habit = rng.choices(list(habits), list(habits.values()))[0]
        return [self.renderer.assistant_ids(turn) for turn in self._write(habit, task, rng)]

    def _write(self, habit: str, task: Task, rng: random.Random) -> list[Message]:
        solution = list(self.env.oracle(task))
        code = task.metadata.get("code", "1+1")
        compute = [call("python", code=code)] if "python" in self.env.toolbox.tools else []
        if habit == "solve":
            return solution
        if habit == "compute":
            return [*compute, solution[-1]]
        if habit == "untagged":
            return [*solution[:-1], say(str(task.answer))]
        if habit == "claim":
            return [*solution[:-2], solution[-1]]
        if habit == "guess":
            return [self._guess(task, rng)]
        if habit == "stop_early":
            return [*solution[: rng.randint(1, max(1, len(solution) - 2))], self._guess(task, rng)]
        first = solution[0] if solution[0].tool_calls else (compute or [call("search", query="x")])[0]
        ending = solution if rng.random() < RECOVERS else [self._guess(task, rng)]
        if habit == "break":
            return [say(break_call(first, rng)), *ending]
        if habit == "useless":
            return [self._useless(task, rng), *ending]
        raise ConfigError(f"unknown habit {habit!r}")

    def _guess(self, task: Task, rng: random.Random) -> Message:
        """The answer of another task of the same kind."""
        others = [self.env.tasks[rng.randrange(len(self.env.tasks))] for _ in range(12)]
        same = [other.answer for other in others if other.kind == task.kind]
        return say(f"<answer>{same[0] if same else others[0].answer}</answer>")

    def _useless(self, task: Task, rng: random.Random) -> Message:
        if "search" in self.env.toolbox.tools:
            return call("search", query=rng.choice(["python", "module", "help", "value"]))
        if "python" in self.env.toolbox.tools:
            return call("python", code=rng.choice(["1+1", "help", "print()", "0"]))
        # The first turn of another task.
        return self.env.oracle(self.env.tasks[rng.randrange(len(self.env.tasks))])[0]


def habits_on(task: Task) -> dict[str, float]:
    """The shares of the habits on a task; `metadata["changes"]` lists the changes that a task asks for."""
    if task.needs_tool is False:
        return NEEDLESS
    return CHANGING if task.metadata.get("changes") else NEEDED


def break_call(message: Message, rng: random.Random) -> str:
    """The text of a call with one mistake in it."""
    body = message.tool_calls[0]
    text = json.dumps({"name": body.name, "arguments": dict(body.arguments)}, ensure_ascii=False)
    mistakes = (
        f"<tool_call>\n{text[:-2]}\n</tool_call>",
        f"<tool_call>\n{text}",
        f"<tool_call>\n{text.replace(body.name, 'tool', 1)}\n</tool_call>",
        f"<tool_call>\n{text.replace('arguments', 'args', 1)}\n</tool_call>",
    )
    return rng.choice(mistakes)


def demonstrate(
    environments: Sequence[tuple[str, ToolEnv]], renderer: Renderer, count: int, seed: int, *, skilled: bool = False
) -> list[Trajectory]:
    """Play `count` demonstrations, the environments in turn; `skilled` ones always follow the oracle.

    Returns:
        Trajectories whose mask marks the demonstrator's tokens.
    """
    rng = random.Random(seed)
    pools = [split_by_need(env) for _, env in environments]
    requests = []
    for index in range(count):
        env_id, env = environments[index % len(environments)]
        needed, needless = pools[index % len(environments)]
        if needless and rng.random() < NEEDLESS_SHARE:
            # Evenly over kinds: those with the fewest tasks must be memorised.
            task = rng.choice(rng.choice(needless))
        else:
            # Between evenly over kinds and evenly over tasks: a rare kind must be learnt, but not memorised.
            task = rng.choice(rng.choices(needed, [math.sqrt(len(kind)) for kind in needed])[0])
        turns = Demonstrator(env, renderer, skilled).turns(task, rng)
        info = {"subject": task.metadata.get("subject", "")}
        requests.append(RolloutRequest(env, task, env_id, str(index), ScriptedPolicy(turns), info))
    engine = RolloutEngine(ScriptedPolicy([[renderer.end_of_turn_id]]), renderer, concurrency=64)
    return engine.run(requests)


def split_by_need(env: ToolEnv) -> tuple[list[list[Task]], list[list[Task]]]:
    """The tasks that need a tool and those that do not, each in lists by kind and by the dots of the answer.

    An answer such as `xml.etree.ElementTree` ends before the name in the question: the more dots, the rarer and harder.
    """
    needed: dict[tuple[str, int], list[Task]] = {}
    needless: dict[tuple[str, int], list[Task]] = {}
    for task in env.tasks:
        pool = needless if task.needs_tool is False else needed
        pool.setdefault((task.kind, str(task.answer).count(".")), []).append(task)
    return list(needed.values()), list(needless.values())
