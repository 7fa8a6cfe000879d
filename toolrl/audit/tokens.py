"""The turns of exploits once more, on tokens: as a policy samples them, through the engine that training uses.

Texts that have those of control tokens in them are sampled twice, spelled out and as the control tokens themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from toolrl.audit.player import Count, Played, Turn
from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.policy import ScriptedPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest, renderer_of
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Score, StopReason, Task

_Way = list[list[int]]  # token ids (T,) of each turn


def sampled_turns(turns: Sequence[Turn], env: ToolEnv, renderer: Renderer) -> list[_Way]:
    """The ways in which turns can be sampled: one, or two if a text has control tokens in it."""
    ways = [[_ids(turn, env, renderer, control) for turn in turns] for control in (False, True)]
    return ways if ways[0] != ways[1] else ways[:1]


def _ids(turn: Turn, env: ToolEnv, renderer: Renderer, control: bool) -> list[int]:
    try:
        if not isinstance(turn, str):
            return renderer.assistant_ids(turn)
        if env.dialect.name != renderer.dialect.name:  # what it says, as this model would say it
            return renderer.assistant_ids(env.dialect.parse(turn, env.toolbox.schemas))
    except ConfigError:  # it has no way to say that; a model can still try
        turn = turn if isinstance(turn, str) else _spelled(turn)
    ids = [*renderer.text_ids(turn, control=control), renderer.end_of_turn_id]
    end = next(place for place, token in enumerate(ids) if token in renderer.stop_token_ids)
    return ids[: end + 1]  # nothing is sampled after it


def _spelled(turn: Message) -> str:
    """Calls as a model could write them that knows no rule of JSON's."""
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.tool_calls]
    return "\n".join(f"<tool_call>\n{json.dumps(call, default=repr)}\n</tool_call>" for call in calls)


def play_on_tokens(
    env: ToolEnv,
    plays: Sequence[tuple[Task, Sequence[Turn]]],
    renderer: Renderer,
    count: Count | None = None,
) -> list[list[Played]]:
    """Play turns through the engine; for each entry, one episode for each way of `sampled_turns`."""
    ways = [sampled_turns(turns, env, renderer_of(renderer, env, task)) for task, turns in plays]
    flat = [(task, way) for (task, _), found in zip(plays, ways, strict=True) for way in found]
    count = count or Count()
    count.expect(len(flat))
    played = iter(_play(env, flat, renderer, count))
    return [[next(played) for _ in found] for found in ways]


def _play(env: ToolEnv, plays: Sequence[tuple[Task, _Way]], renderer: Renderer, count: Count) -> list[Played]:
    def policy(way: _Way) -> ScriptedPolicy:
        turns = iter(way)  # by their order, not by what was said: an exploit can repeat the prompt
        return ScriptedPolicy(lambda prompt_ids: next(turns, [renderer.end_of_turn_id]))

    def play(some: Sequence[tuple[Task, _Way]]) -> list[Trajectory]:
        engine = RolloutEngine(policy([]), renderer, retries=0, concurrency=8, on_trajectory=lambda _: count.add_one())
        return engine.run([RolloutRequest(env, task, policy=policy(way)) for task, way in some])

    try:
        return [_played(trajectory) for trajectory in play(plays)]
    except Exception:  # noqa: BLE001  that hostile turns raise nothing is what is examined: see which one does
        return [_one(play, task, way) for task, way in plays]


def _one(play: Callable[[Sequence[tuple[Task, _Way]]], list[Trajectory]], task: Task, way: _Way) -> Played:
    try:
        return _played(play([(task, way)])[0])
    except Exception as error:  # noqa: BLE001
        return Played(task.id, (), (), Score(None), StopReason.FAULT, f"{type(error).__name__}: {error}")


def _played(trajectory: Trajectory) -> Played:
    results = tuple(result for turn in trajectory.turns for result in turn.results)
    return Played(trajectory.task_id, tuple(trajectory.messages), results, trajectory.score, trajectory.stop)
