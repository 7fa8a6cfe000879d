"""Games with Gymnasium's `reset` and `step` as environments: the game is the user, which answers every move.

What the agent says is read as a move, and the observation is told as the user's reply. The game's rewards are kept as
awards of their turns; when the game is over, so is the episode.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium

from toolrl.env import ToolEnv, say
from toolrl.errors import ConfigError, EnvironmentNotFound, TaskError, ToolError
from toolrl.rewards.grader import Reward
from toolrl.support.checking import finite
from toolrl.tasks import TaskSet, of_split
from toolrl.tools.awards import award
from toolrl.tools.resources import per_episode
from toolrl.types import Ended, Episode, Limits, Message, Score, Task

TERMINATED, TRUNCATED = "terminated", "truncated"  # the reasons of an end
_TURNS = 100  # of a game that does not say how many steps it takes at most
_COMPLETION_TOKENS = 8192
_ERROR_CHARACTERS = 300

Describe = Callable[..., str]
Read = Callable[[str], Any] | Sequence[str] | Mapping[str, Any]
Expert = Callable[[Any, Mapping[str, Any], Any], str]


class Game:
    """A game in progress, or just over.

    Attributes:
        env: The game, as its author made it.
        text: The last observation, in words.
        observation: The last observation.
        info: What came with it.
        moves: Number of moves made.
        unreadable: Number of messages without a move.
        reward: What the last message earned.
        total: The sum of the game's rewards.
        ending: "terminated" or "truncated"; empty while the game goes on.
    """

    def __init__(self, env: Any, seed: int, *, describe: Describe | None = None, read: Read | None = None):
        """Start a game; it is closed if it cannot start.

        Args:
            env: A `gymnasium.Env`, or anything with its `reset` and `step`.
            seed: Fixes what happens in it.
            describe: See `from_gymnasium`.
            read: See `from_gymnasium`.

        Raises:
            ConfigError: Its observations cannot be written, or its actions cannot be read.
        """
        self.env = env
        self.moves = self.unreadable = 0
        self.reward = self.total = 0.0
        self.ending = ""
        try:
            self._describe = describe
            self._described_by = 1 if describe is None else _count_of_parameters(describe)
            self._read = _reader(read, env)
            self.observation, self.info = env.reset(seed=seed)
            self.text = self._described()
        except BaseException:
            self.close()
            raise

    def play(self, message: str) -> str | Ended:
        """Make the move that a message says.

        Returns:
            The next observation in words, as `Ended` if the game is over. A message that does not name a move
            leaves the game unchanged, and the reply says why.
        """
        self.reward = 0.0
        try:
            action = self._read(message)
            _check_action(action, self.env)
        except (ValueError, LookupError, ToolError) as error:
            self.unreadable += 1
            problem = f"there is no move {error}" if isinstance(error, KeyError) else str(error)
            return f"error: {problem[:_ERROR_CHARACTERS]}"
        self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.moves += 1
        self.reward = finite("the reward of a game", reward)
        self.total += self.reward
        self.text = self._described()
        if not (terminated or truncated):
            return self.text
        self.ending = TERMINATED if terminated else TRUNCATED
        return Ended(self.text, self.ending)

    def close(self) -> None:
        """Close the game."""
        if hasattr(self.env, "close"):
            self.env.close()

    def _described(self) -> str:
        if self._describe is not None:
            given = (self.observation, self.info, self.env)[: self._described_by]
            text: Any = self._describe(*given)
        else:
            text = self.observation
        if not isinstance(text, str):
            what = "an observation" if self._describe is None else "what describe= returned"
            raise ConfigError(f"{what} of {_name(self.env)} is not text: {text!r:.80}; pass describe=, which writes it")
        return text


class GameEnv(ToolEnv):
    """Games as tasks; `from_gymnasium` makes one from a game and its seeds."""

    def __init__(
        self,
        *,
        tasks: TaskSet | Iterable[Task],
        open_game: Callable[[Task], Game],
        reward: Reward | None = None,
        success: Callable[[Game], bool] | None = None,
        expert: Expert | None = None,
        limits: Limits | None = None,
        **settings: Any,
    ):
        """Make the environment.

        Args:
            tasks: The prompt of each ends with the first observation of its game, in words.
            open_game: Starts the game of a task, the same one each time.
            reward: See `ToolEnv`; the game is `episode.state["game"]`, unless nobody ever spoke. By default an episode
                is worth the sum of the game's rewards.
            success: Whether a game was won, for the default reward; by default if that sum is positive.
            expert: `(observation, info, game) -> message`: plays a game of its own to make the oracle's messages.
            limits: By default as many turns as the game has steps. Awards are not bounded.
            settings: Passed to `ToolEnv`.
        """

        def opened(task: Task) -> Game:
            game = open_game(task)
            if not task.prompt.endswith(game.text):
                game.close()
                raise TaskError(
                    f"the game of task {task.id!r} does not begin as it did before, with {task.prompt!r:.80}, but with "
                    f"{game.text!r:.80}; its reset(seed=) must fix everything that happens in it"
                )
            return game

        def play(message: str, game: Game = per_episode(opened)) -> str | Ended:
            reply = game.play(message)
            if game.reward:
                award(game.reward)
            return reply

        def solve(task: Task) -> list[Message]:
            assert expert is not None
            game = opened(task)
            said: list[str] = []
            try:
                while not game.ending and len(said) < self.limits.turns:
                    said.append(expert(game.observation, game.info, game.env))
                    game.play(said[-1])
            finally:
                game.close()
            return [say(text) for text in said]

        limits = limits or Limits(turns=_TURNS, completion_tokens=_COMPLETION_TOKENS)
        super().__init__(
            tasks=tasks,
            user=play,
            reward=reward or _returns(success or _is_positive),
            limits=replace(limits, awards=math.inf),
            **{"oracle": None if expert is None else solve, **settings},
        )


def from_gymnasium(
    game: str | Callable[..., Any],
    *,
    describe: Describe | None = None,
    read: Read | None = None,
    seeds: int | Iterable[int] = 100,
    instructions: str = "",
    expert: Expert | None = None,
    reward: Reward | None = None,
    success: Callable[[Game], bool] | None = None,
    limits: Limits | None = None,
    split: str | None = None,
    **settings: Any,
) -> GameEnv:
    """Make an environment of a game: each seed is a task, whose prompt is the game's first observation.

    Args:
        game: A registered id, or a function that makes the game, given the seed if it takes a positional argument. It
            needs `reset(seed=)` and `step(action)` as `gymnasium.Env` has them, spaces only if they are to be checked.
        describe: Writes an observation: `(observation)`, `(observation, info)` or `(observation, info, game)`, where
            the last is the game itself. By default observations are texts.
        read: Reads a move: a function from what the agent said to an action, which raises ValueError or KeyError if
            that does not say a move; or the moves' names, in the order of a discrete space or mapped to actions, of
            which a message (or its last `<answer>`) must name exactly one. By default a move is the text itself.
        seeds: How many, or which.
        instructions: The rules of the game and how to say a move: the system prompt.
        expert: `(observation, info, game) -> message`: plays the oracle.
        reward: See `ToolEnv`; by default the sum of the game's rewards. If each move costs something, an agent that
            never moves would do best: pass a reward.
        success: Whether a finished game counts as success; by default if the sum of its rewards is positive.
        limits: By default as many turns as the game has steps (`max_episode_steps`), or 100. Awards are not bounded.
        split: "train" or "test": about a fifth is held out, by a hash of the prompt, or of the seed if all begin alike.
        settings: Further settings of `ToolEnv`.

    Raises:
        EnvironmentNotFound: Gymnasium does not know the id.
        ConfigError: Its observations cannot be written, or its actions cannot be read.
        TaskError: There are no seeds, or none of this split.
    """
    takes_seed = not isinstance(game, str) and _count_of_parameters(game, required=True) > 0

    def make(seed: int) -> Any:
        if isinstance(game, str):
            try:
                return gymnasium.make(game, disable_env_checker=True)
            except gymnasium.error.UnregisteredEnv as error:
                raise EnvironmentNotFound(f"Gymnasium makes no game {game!r}: {error}") from None
        return game(seed) if takes_seed else game()

    def open_game(task: Task) -> Game:
        seed = int(task.metadata["seed"])
        return Game(make(seed), seed, describe=describe, read=read)

    tasks: list[Task] = []
    turns = _TURNS
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        started = open_game(Task(str(seed), "", metadata={"seed": seed}))
        started.close()
        tasks.append(Task(f"seed-{seed}", started.text, metadata={"seed": seed}))
        turns = getattr(getattr(started.env, "spec", None), "max_episode_steps", None) or turns
    if split is not None:
        alike = len({task.prompt for task in tasks}) == 1
        tasks = list(of_split(tasks, lambda task: task.id if alike else task.prompt, split))
    return GameEnv(
        tasks=tasks,
        open_game=open_game,
        reward=reward,
        success=success,
        expert=expert,
        limits=limits or Limits(turns=turns, completion_tokens=_COMPLETION_TOKENS),
        system_prompt=instructions,
        **settings,
    )


def _returns(success: Callable[[Game], bool]) -> Reward:
    def game_return(task: Task, episode: Episode) -> Score:
        game: Game | None = episode.state.get("game")
        if game is None:  # nobody spoke
            return Score(0.0, {"correct": 0.0})
        parts = {"correct": float(success(game)), "moves": game.moves, "unreadable": game.unreadable}
        return Score(game.total, parts, reason=game.ending or f"unfinished: {episode.stop}")

    return game_return


def _is_positive(game: Game) -> bool:
    return game.total > 0


def _reader(read: Read | None, env: Any) -> Callable[[str], Any]:
    """The function that reads moves.

    Raises:
        ConfigError: The actions are not texts, and nothing says how to read them.
    """
    space = getattr(env, "action_space", None)
    if callable(read):
        return read
    if read is None:
        if space is None or isinstance(space, gymnasium.spaces.Text):
            return str
        raise ConfigError(
            f"the actions of {_name(env)} are {space}, not texts; pass read=, a function that reads a move, or the "
            "moves' names in their order"
        )
    if not isinstance(read, Mapping):
        first = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else 0
        size = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else None
        if isinstance(read, str) or len(read) != size:
            raise ConfigError(
                f"read= names {len(read)} moves, {read!r:.80}, but the actions of {_name(env)} are {space}"
            )
        read = {name: first + index for index, name in enumerate(read)}
    actions = {name.casefold(): action for name, action in read.items()}
    longest_first = sorted(map(re.escape, actions), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)")
    choices = ", ".join(read)

    def named(message: str) -> Any:
        tagged = message.rpartition("<answer>")[2].partition("</answer>")[0]
        found = dict.fromkeys(pattern.findall(tagged.casefold()))
        if len(found) != 1:
            raise ValueError(f"your message names {'several moves' if found else 'no move'}; name one of: {choices}")
        return actions[next(iter(found))]

    return named


def _check_action(action: Any, env: Any) -> None:
    """Refuse an action that the game does not know; of texts only the length, since spaces rarely list all characters.

    Raises:
        ValueError: It is not in the space.
    """
    space = getattr(env, "action_space", None)
    if isinstance(space, gymnasium.spaces.Text) and isinstance(action, str):
        if not space.min_length <= len(action) <= space.max_length:
            raise ValueError(f"a move has {space.min_length} to {space.max_length} characters, not {len(action)}")
    elif isinstance(space, gymnasium.Space) and action not in space:
        raise ValueError(f"{action!r:.40} is not among the actions, {space}")


def _count_of_parameters(function: Callable[..., Any], *, required: bool = False) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have no signature
        return 1 - required
    return sum(p.kind <= p.POSITIONAL_OR_KEYWORD and not (required and p.default is not p.empty) for p in parameters)


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else type(env).__name__
