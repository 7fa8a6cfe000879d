"""Promises about TRL's environment classes as environments: what is scored, what is a fault, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import pytest

import toolrl
from tests.interop.environments import ROWS, Accounts, Counter, WordGame
from toolrl import (
    ConfigError,
    Ended,
    InfrastructureError,
    RolloutEngine,
    RolloutRequest,
    StopReason,
    TaskError,
    ToolEnv,
    Trajectory,
    call,
    say,
)
from toolrl.audit import check_environment
from toolrl.errors import ToolDefinitionError
from toolrl.interop import from_trl
from toolrl.policy import ScriptedChatPolicy


def reward_of_environments(environments: list[Any], **kwargs: Any) -> list[float]:
    return [environment.reward for environment in environments]


def play(env: ToolEnv, *script: Any, index: int = 0, retries: int = 0) -> Trajectory:
    engine = RolloutEngine(ScriptedChatPolicy(list(script)), None, retries=retries, backoff_seconds=0)
    return engine.run([RolloutRequest(env, env.tasks[index])])[0]


def test_get_reward_scores_the_episode_and_the_instance_is_closed() -> None:
    env = from_trl(Accounts, ROWS[Accounts])
    Accounts.closed = 0
    trajectory = play(env, call("transfer", source="bob", target="ann", amount=2), say("Done."))
    assert (trajectory.score.value, trajectory.score.parts) == (1.0, {"Accounts": 1.0})
    assert play(env, say("Done.")).score.value == 0.0, "an episode without a call has been reset, too"
    assert Accounts.closed == 2


def test_reward_functions_see_the_environment_the_columns_and_the_final_message() -> None:
    def says_the_count(
        completions: list[Any], answer: list[int], environments: list[Counter], **kwargs: Any
    ) -> list[float]:
        final = completions[0][0]["content"]
        return [float(final == str(environments[0].count) and environments[0].count == answer[0])]

    async def brief(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
        assert prompts == [[{"role": "user", "content": "Increment by 3."}]]
        return [0.5 if len(completions[0][-1]["content"]) < 5 else None]

    env = from_trl(Counter, ROWS[Counter], [says_the_count, brief])
    score = play(env, call("increment", step=3), say("3")).score
    assert (score.value, score.parts) == (1.5, {"says_the_count": 1.0, "brief": 0.5})
    assert play(env, call("increment", step=3), say("three of them")).score.parts == {"says_the_count": 0.0}


def test_an_episode_without_any_reward_is_unscored() -> None:
    env = from_trl(Counter, ROWS[Counter], lambda environments, **kwargs: [None])
    assert play(env, say("3")).score.value is None


def test_without_a_data_set_reset_writes_the_prompt() -> None:
    class Riddle(Counter):
        def reset(self, **kwargs: Any) -> str:
            self.count = 0
            return "Count to 2."

        def get_reward(self) -> float:
            return float(self.count == 2)

    env = from_trl(Riddle)
    assert [task.prompt for task in env.tasks] == ["Count to 2."]
    assert play(env, call("increment", step=2), say("2")).score.value == 1.0


def test_a_factory_an_oracle_a_split_and_an_id_work_as_for_any_environment() -> None:
    class Stepped(Counter):
        def __init__(self, start: int):
            self.start = start

        def reset(self, **kwargs: Any) -> None:
            self.count = self.start

        def get_reward(self) -> float:
            return float(self.count == 5)

    rows = [{"prompt": f"Reach 5 ({index}).", "id": f"five-{index}"} for index in range(20)]

    def make(split: str | None = None) -> ToolEnv:
        return from_trl(
            lambda: Stepped(2), rows, split=split, oracle=lambda task: [call("increment", step=3), say("5")]
        )

    gymnasium.register("test/Stepped-v0", entry_point=make)
    try:
        check_environment("test/Stepped-v0", tasks=3).assert_passed()
        sides = [{task.id for task in toolrl.make("test/Stepped-v0", split=split).tasks} for split in ("train", "test")]
    finally:
        del gymnasium.registry["test/Stepped-v0"]
    assert all(sides)
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 20


def test_a_method_may_end_the_episode() -> None:
    class Exam(Counter):
        def hand_in(self) -> Ended:
            """Hand in."""
            return Ended(self.count, "handed in", answer=str(self.count))

    env = from_trl(Exam, ROWS[Counter], lambda completions, **kwargs: [float(completions[0][0]["content"])])
    trajectory = play(env, call("increment", step=3), call("hand_in"), say("never said"))
    assert (trajectory.stop, trajectory.score.value) == (StopReason.TOOL, 3.0)
    assert trajectory.turns[-1].results[-1].content == "3"


def test_reset_may_change_its_row() -> None:
    class Deck(Counter):
        def reset(self, cards: list[str], **row: Any) -> None:
            self.card = cards.pop()

        def draw(self) -> list[str]:
            """Draw a card."""
            return [self.card]

    env = from_trl(Deck, [{"prompt": "Draw.", "cards": ["ace", "ten"]}], lambda environments, **kwargs: [1.0])
    for _ in range(2):
        assert play(env, call("draw"), say("x")).turns[0].results[0].content == '["ten"]'


class Flaky(Counter):
    error: Exception = ConnectionError("refused")

    def increment(self, step: int) -> int:
        """Increment the counter.

        Args:
            step: By how much.
        """
        raise self.error

    def get_reward(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("game over"), "{'error': 'game over'}"),
        (KeyError("eve"), "{'error': \"'eve'\"}"),
        (ConnectionError("refused"), StopReason.FAULT),
        (InfrastructureError("down"), StopReason.FAULT),
        (AttributeError("no attribute"), AttributeError),
        (FileNotFoundError("no file"), FileNotFoundError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mistakes_faults_and_bugs_are_kept_apart(error: Exception, outcome: Any) -> None:
    class Fails(Flaky):
        pass

    Fails.error = error
    env = from_trl(Fails, ROWS[Counter])
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            play(env, call("increment", step=1), say("x"))
        return
    trajectory = play(env, call("increment", step=1), say("x"), retries=1)
    if outcome is StopReason.FAULT:
        assert (trajectory.stop, trajectory.score.value, trajectory.attempts) == (outcome, None, 2)
    else:
        assert trajectory.turns[0].results[0].content == outcome


def test_which_exceptions_are_mistakes_and_faults_is_a_setting() -> None:
    class Fails(Flaky):
        error = RuntimeError("closed")

    assert play(from_trl(Fails, ROWS[Counter], faults=(RuntimeError,)), call("increment", step=1)).stop == "fault"
    everything = from_trl(Fails, ROWS[Counter], mistakes=(Exception,))
    shown = play(everything, call("increment", step=1), say("x")).turns[0].results[0].content
    assert shown == "{'error': 'closed'}"


def test_a_service_that_is_down_is_a_fault_in_reset_and_in_get_reward_too() -> None:
    class Server(Counter):
        down: frozenset[str] = frozenset()

        def reset(self, **kwargs: Any) -> None:
            self._answer("reset")
            self.count = 0

        def get_reward(self) -> float:
            self._answer("get_reward")
            return 1.0

        def _answer(self, request):
            if request in self.down:
                raise ConnectionError("refused")

    env = from_trl(Server, ROWS[Counter])
    Server.down = frozenset({"reset"})
    assert play(env, call("increment", step=1), say("1"), retries=1).attempts == 2
    Server.down = frozenset({"get_reward"})
    assert play(env, say("1")).score.value is None
    Server.down = frozenset({"reset"})
    with pytest.raises(InfrastructureError, match="ConnectionError: refused"):
        from_trl(Server, ROWS[Counter])


@pytest.mark.parametrize("same_at_first", [0, 2])
def test_a_reset_that_returns_another_text_each_time_is_refused(same_at_first: int) -> None:
    numbers = itertools.count(1)

    class Random(WordGame):
        def reset(self, **kwargs: Any) -> str:
            return f"Board {max(same_at_first, next(numbers))}."

    def episode() -> None:
        play(from_trl(Random, ROWS[WordGame][:1], reward_of_environments), say("x"))

    with pytest.raises(
        ConfigError, match=r"Random\.reset returns another text each time, .*random\.Random\(row\['seed"
    ):
        episode()


class WithoutReset:
    def look(self) -> str:
        """Look around."""
        return "dark"


class AsyncReset(WordGame):
    async def reset(self, **kwargs: Any) -> str:
        return ""


class NarrowReset(Counter):
    def reset(self) -> None:
        self.count = 0


class NeedsUrl(Counter):
    def __init__(self, url: str):
        self.url = url


class Picture(WordGame):
    def reset(self, **kwargs: Any) -> Any:
        return [{"type": "image", "image": "board.png"}]


class Undocumented(Counter):
    def decrement(self, step: int) -> int:
        return step


class Empty:
    def reset(self, **kwargs: Any) -> None: ...


def needs_ids(completion_ids: list[Any], **kwargs: Any) -> list[float]:
    return [0.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Counter(), ROWS[Counter]), ConfigError, "must make an environment, got .*; write the class, Counter"),
        (({"a": Counter}, ROWS[Counter]), ConfigError, "mapping of several environments; make one of each"),
        ((WithoutReset, ROWS[Counter]), ConfigError, r"WithoutReset needs a method reset\(\*\*row\)"),
        ((AsyncReset, ROWS[WordGame]), ConfigError, "AsyncReset needs a method .* does not await"),
        ((NarrowReset, ROWS[Counter]), ConfigError, r"NarrowReset.reset: got an .*'prompt'; .* so it needs \*\*kwargs"),
        ((NeedsUrl, ROWS[Counter]), ConfigError, r"NeedsUrl\(\) needs url, .*; write lambda: NeedsUrl\(...\)"),
        ((Picture, ROWS[WordGame]), TaskError, r"Picture.reset returned \[.*image.*; only text can be shown"),
        ((Undocumented, ROWS[Counter], reward_of_environments), ToolDefinitionError, "decrement has no docstring"),
        ((Empty, ROWS[Counter], reward_of_environments), ToolDefinitionError, "Empty has no method that can be a tool"),
        ((Counter, ROWS[Counter]), ConfigError, "pass reward_funcs, or give Counter a method get_reward"),
        ((Counter, ROWS[Counter], "some/model"), ConfigError, "reward_funcs must be functions, got 'some/model'"),
        ((Counter, ROWS[Counter], needs_ids), ConfigError, "'needs_ids': missing .*'completion_ids'; it is called"),
        (
            (Counter, {"train": ROWS[Counter]}, reward_of_environments),
            TaskError,
            "dataset must have rows, .* got 'train'",
        ),
        ((Counter, [], reward_of_environments), TaskError, "at least one task"),
        (
            (Counter, [{"prompt": [{"role": "assistant", "content": "x"}]}], reward_of_environments),
            TaskError,
            r"row 0: the prompt must be a user message, perhaps after a system message, got .* \['assistant'\]",
        ),
        (
            (
                Counter,
                [
                    {"prompt": [{"role": "system", "content": text}, {"role": "user", "content": "Count."}]}
                    for text in ("a", "a", "b")
                ],
                reward_of_environments,
            ),
            TaskError,
            "rows 0 and 2 have different system messages",
        ),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_played_is_refused(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_trl(*arguments)


def test_only_leaves_methods_out() -> None:
    env = from_trl(Undocumented, ROWS[Counter], reward_of_environments, only=["increment"])
    assert list(env.toolbox.tools) == ["increment"]
