"""Promises about games as environments: the game answers every move, the same each time, and decides the end."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.toy_text import FrozenLakeEnv
from gymnasium.spaces import Discrete, Text

from toolrl import (
    ConfigError,
    InfrastructureError,
    Limits,
    StopReason,
    TaskError,
    Trajectory,
    say,
)
from toolrl.errors import EnvironmentNotFound
from toolrl.interop import Game, GameEnv, from_gymnasium
from toolrl.policy import ScriptedChatPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest


class Doors(gymnasium.Env[str, str]):
    """Open the red or the blue door: one of them is the exit, each other move costs a little."""

    observation_space = Text(100)
    action_space = Text(100)
    closed = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.exit = random.Random(seed).choice(["red", "blue"])
        return f"Room {seed}. Red or blue?", {"object": object()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "crash":
            raise ZeroDivisionError("in the game")
        if action == "cut the line":
            raise InfrastructureError("the game's server is down")
        if action == self.exit:
            return "You are out.", 2.0, True, False, {}
        return "A wall.", -0.25, False, action == "wait", {}

    def close(self) -> None:
        type(self).closed += 1


class Turns(Doors):
    """The same doors by number."""

    action_space = Discrete(2, start=1)  # type: ignore[assignment]

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return super().step({1: "red", 2: "blue"}[int(action)])


def play(env: GameEnv, *said: str, task: int = 0) -> Trajectory:
    engine = RolloutEngine(ScriptedChatPolicy([say(text) for text in said]), None, retries=0)
    return engine.run([RolloutRequest(env, env.tasks[task])])[0]


def doors(**settings: Any) -> GameEnv:
    return from_gymnasium(Doors, **{"seeds": 8, "limits": Limits(turns=5), **settings})


def the_exit(env: GameEnv, task: int = 0) -> str:
    return random.Random(env.tasks[task].metadata["seed"]).choice(["red", "blue"])


def other(door: str) -> str:
    return {"red": "blue", "blue": "red"}[door]


def test_the_game_answers_every_move_and_its_end_is_the_episodes() -> None:
    env = doors()
    right = the_exit(env)
    played = play(env, other(right), right)
    assert env.tasks[0].prompt == "Room 0. Red or blue?"
    assert [turn.reply for turn in played.turns] == ["A wall.", "You are out."]
    assert (played.stop, played.ending) == (StopReason.USER, "terminated")


def test_rewards_on_the_way_are_awards_and_sum_up_to_the_score_without_a_bound() -> None:
    env = doors()
    right = the_exit(env)
    played = play(env, other(right), right)
    assert [[award.value for award in turn.awards] for turn in played.turns] == [[-0.25], [2.0]]
    assert (played.score.value, played.score.success) == (1.75, True)
    assert env.limits.awards == float("inf")


def test_a_game_that_cuts_itself_short_ends_the_episode_and_says_so() -> None:
    played = play(doors(), "wait")
    assert (played.stop, played.ending, played.score.value) == (StopReason.USER, "truncated", -0.25)


def test_the_step_limit_of_a_registered_game_is_the_limit_of_turns() -> None:
    env = from_gymnasium("FrozenLake-v1", describe=lambda place: f"You are at {place}.", read=list("ldru"), seeds=2)
    assert env.limits.turns == 100
    assert env.tasks[0].prompt == "You are at 0."


def test_the_same_moves_have_the_same_results() -> None:
    env = from_gymnasium(FrozenLakeEnv, describe=lambda place, info, game: f"{place} {info}", read=list("ldru"))
    said = ["r", "d", "d", "r", "d", "r"]
    replies = [[turn.reply for turn in play(env, *said, task=seed).turns] for seed in (0, 0, 1, 2)]
    assert replies[0] == replies[1]
    assert not replies[0] == replies[2] == replies[3]


def test_a_game_that_begins_otherwise_than_its_prompt_is_refused() -> None:
    class Clock(Doors):
        ticks = closed = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            type(self).ticks += 1
            return f"It is {self.ticks}.", {}

    with pytest.raises(TaskError, match=r"does not begin as it did before.*reset\(seed=\) must fix"):
        play(from_gymnasium(Clock, seeds=2), "red")
    assert Clock.closed == 3


@pytest.mark.parametrize("said", ["", "hm", "open red or blue", "redder", "<answer></answer>", "red" * 50])
def test_a_message_without_a_move_leaves_the_game_unchanged_and_costs_a_turn(said: str) -> None:
    env = from_gymnasium(Turns, read=["red", "blue"], limits=Limits(turns=3))
    played = play(env, said)
    assert all(str(turn.reply).startswith("error: your message names") for turn in played.turns)
    assert (played.stop, len(played.turns), played.score.value) == (StopReason.TURNS, 3, 0.0)
    assert played.score.parts == {"correct": 0.0, "moves": 0, "unreadable": 3}
    assert play(env, said, the_exit(env)).score.value == 2.0


@pytest.mark.parametrize("said", ["{}", "I take the {} one.", "not {0}? <answer>{0}</answer>", "{}, yes: {}!"])
def test_a_message_that_names_one_move_is_that_move(said: str) -> None:
    env = from_gymnasium(Turns, read=["red", "blue"])
    right = the_exit(env)
    assert play(env, said.format(right.upper(), right)).score.value == 2.0
    assert play(env, f"Not {other(right)}. <answer>{right}</answer>").score.value == 2.0


def test_a_reader_may_be_a_function_or_a_mapping_that_refuses() -> None:
    for read in (int, {"1": 1, "2": 2, "9": 9}, {"1": 1, "2": 2}.__getitem__):
        env = from_gymnasium(Turns, read=read)
        number = "1" if the_exit(env) == "red" else "2"
        played = play(env, "x", "9", number)
        assert [str(turn.reply).startswith("error: ") for turn in played.turns] == [True, True, False]
        assert played.score.value == 2.0


def test_of_texts_only_the_length_is_checked() -> None:
    assert play(doors(), "Öffne, bitte!").turns[0].reply == "A wall."
    assert "a move has 1 to 100 characters" in str(play(doors(), "x" * 101).turns[0].reply)


def test_a_crash_of_the_game_is_a_bug_and_a_fault_leaves_the_episode_unscored() -> None:
    with pytest.raises(ZeroDivisionError, match="in the game"):
        play(doors(), "crash")
    played = play(doors(), "cut the line")
    assert (played.stop, played.score.value) == (StopReason.FAULT, None)


def test_every_game_is_closed() -> None:
    env = doors(seeds=2, expert=lambda observation, info, game: game.exit)
    Doors.closed = 0
    play(env, the_exit(env))
    play(env, "cut the line")
    with pytest.raises(ZeroDivisionError):
        play(env, "crash")
    env.oracle(env.tasks[0])
    assert Doors.closed == 4
    with pytest.raises(ConfigError, match="not text"):
        from_gymnasium(Doors, describe=lambda observation: 5)  # type: ignore[arg-type, return-value]
    assert Doors.closed == 5


def test_the_expert_plays_the_oracle() -> None:
    env = doors(expert=lambda observation, info, game: game.exit)
    for index, task in enumerate(env.tasks):
        assert [message.content for message in env.oracle(task)] == [the_exit(env, index)]


def test_an_agent_that_never_speaks_earns_nothing() -> None:
    env = doors(limits=Limits(turns=2))
    env.reset(options={"task": 0})
    for _ in range(2):
        *_, truncated, info = env.step("<tool_call>{")
    assert (truncated, info["score"]["value"]) == (True, 0.0)


def test_the_author_decides_what_a_game_is_worth() -> None:
    def few_moves(game: Game) -> bool:
        return game.moves == 1

    env = doors(success=few_moves)
    right = the_exit(env)
    assert [play(env, other(right), right).score.success, play(env, right).score.success] == [False, True]
    env = doors(reward=lambda task, episode: float(episode.state["game"].ending == "terminated"))
    assert play(env, other(right), right).score.value == 1.0


def test_the_splits_share_no_prompt_or_else_no_seed() -> None:
    for make, attribute in ((Doors, "prompt"), (FrozenLakeEnv, "id")):
        read = None if make is Doors else list("ldru")
        sides = [
            from_gymnasium(make, describe=str, read=read, seeds=range(5, 45), split=split).tasks
            for split in ("train", "test")
        ]
        train, test = ({getattr(task, attribute) for task in side} for side in sides)
        assert not train & test
        assert len(sides[0]) + len(sides[1]) == 40


def test_anything_with_reset_and_step_is_a_game_and_may_be_made_of_its_seed() -> None:
    class Echo:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
            return f"Say {self.seed} {seed}.", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return action, float(action == str(self.seed)), True, False, {}

    env = from_gymnasium(Echo, seeds=[3, 4], instructions="Listen.")
    assert (env.system_prompt, env.tasks[1].prompt) == ("Listen.", "Say 4 4.")
    assert play(env, "4", task=1).score.value == 1.0


@pytest.mark.parametrize(
    ("game", "settings", "error", "message"),
    [
        ("NoSuchGame-v0", {}, EnvironmentNotFound, "makes no game 'NoSuchGame-v0'"),
        ("FrozenLake-v1", {}, ConfigError, r"are Discrete\(4\), not texts; pass read="),
        ("FrozenLake-v1", {"read": ["left"]}, ConfigError, "names 1 moves"),
        ("FrozenLake-v1", {"read": list("ldru")}, ConfigError, "an observation of FrozenLake-v1 is not text: 0; pass"),
        (Doors, {"seeds": 0}, TaskError, "at least one task"),
    ],
)
def test_a_game_that_cannot_be_told_in_words_is_refused_when_it_is_made(
    game: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_gymnasium(game, **settings)
