"""The `toolrl/ToyText-v0` environment."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from toolrl import ConfigError, Episode, Limits, Message, Score, Task, TaskSet, is_held_out, say
from toolrl.audit import AuditOptions
from toolrl.interop import Game, GameEnv
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.toy_text.games import KINDS, LAKE_SIZES

_SYSTEM_PROMPT = "You play a game. Each turn, say one move."
_TURNS = 30
_MOVES = 24  # of a task's solution, so that a player who errs can still win
_MOVE_COST = 0.05  # for each move that was not needed
_DRAWS = 300  # in search of another task; some games start in only a few ways


class ToyTextEnv(GameEnv):
    """Gymnasium's toy-text games in words; each move is a turn."""

    audit_options = AuditOptions(excused={"repeat-each-turn": "other moves may win too, and a game is won once"})

    def __init__(
        self,
        split: Split = "train",
        *,
        kinds: Sequence[str] = (),
        lake_size: int | None = None,
        size: int = 500,
        seed: int = 0,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; no game of one begins like one of the other.
            kinds: Of "frozen_lake", "slippery_lake", "cliff_walking", "taxi" and "blackjack"; all if empty.
            lake_size: Rows and columns of lakes, 4 to 6; any of these if None.
            size: Number of tasks. There are fewer if the kinds have fewer starts.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range.
        """
        super().__init__(
            tasks=make_tasks(split, kinds, lake_size, size, seed),
            open_game=open_game,
            reward=judge,
            system_prompt=_SYSTEM_PROMPT,
            limits=Limits(turns=_TURNS, completion_tokens=4096),
            oracle=solve,
            render_mode=render_mode,
        )


def open_game(task: Task) -> Game:
    """Begin the game of a task."""
    seed, kind = task.metadata["seed"], KINDS[task.kind]
    return Game(kind.make(seed, task.metadata["lake_size"]), seed, describe=kind.describe, read=kind.moves)


def make_tasks(split: Split, kinds: Sequence[str], lake_size: int | None, size: int, seed: int) -> TaskSet:
    """Draw games that the best player wins.

    Raises:
        ConfigError: A setting is out of range.
    """
    check_split(split, size)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"kinds has {unknown[0]!r}; there are {', '.join(KINDS)}")
    if lake_size is not None and lake_size not in LAKE_SIZES:
        raise ConfigError(f"lake_size must be from {LAKE_SIZES[0]} to {LAKE_SIZES[-1]}, got {lake_size!r}")
    rng = random.Random(f"{split}/{seed}")
    tasks: dict[str, Task] = {}
    draws = deque(_Draws(name, split) for name in (dict.fromkeys(kinds) or KINDS))
    while draws and len(tasks) < size:
        for _ in range(_DRAWS):
            task = draws[0].draw(rng.randrange(2**31), lake_size or rng.choice(LAKE_SIZES))
            if task is not None and task.id not in tasks:
                tasks[task.id] = task
                draws.rotate(-1)
                break
        else:
            draws.popleft()  # it seems to have no further start
    return TaskSet(tasks.values())


class _Draws:
    """Draws tasks of one kind."""

    def __init__(self, name: str, split: Split):
        self._name, self._kind, self._split = name, KINDS[name], split
        self._shared = self._kind.make(0, 0) if self._kind.is_shared else None

    def draw(self, seed: int, lake_size: int) -> Task | None:
        """A task, unless its game belongs to the other split or the best player loses it."""
        kind, board = self._kind, self._kind.board(seed, lake_size)
        if board and not self._belongs(kind.key(board)):
            return None
        env = self._shared or kind.make(seed, lake_size)
        game = Game(env, seed, describe=kind.describe, read=kind.moves)
        try:
            prompt = kind.prompt(board, game.text)
            if not board and not self._belongs(prompt):
                return None
            choose = kind.player(env)
            moves: list[str] = []
            while not game.ending and len(moves) < _MOVES:
                moves.append(choose(game.observation))
                game.play(moves[-1])
        finally:
            game.close()
        if not (game.ending and kind.won(game)):
            return None
        id = task_id(self._name, str(seed) if kind.is_random else prompt)
        metadata = {"seed": seed, "lake_size": lake_size, "moves": moves}
        return Task(id, prompt, metadata=metadata, kind=self._name, needs_tool=False, difficulty=len(moves))

    def _belongs(self, key: str) -> bool:
        return is_held_out(key) == (self._split == "test")


def judge(task: Task, episode: Episode) -> Score:
    """1 for a game that was won, less for more moves than the best player made, at least 0.5; 0 otherwise."""
    game: Game | None = episode.state.get("game")
    if game is None or not (game.ending and KINDS[task.kind].won(game)):
        return Score(0.0, {"correct": 0.0}, reason="lost" if game and game.ending else "not over")
    surplus = max(0, game.moves + game.unreadable - len(task.metadata["moves"]))
    return Score(max(0.5, 1 - _MOVE_COST * surplus), {"correct": 1.0, "surplus_moves": surplus}, reason="won")


def solve(task: Task) -> list[Message]:
    """The moves of the best player."""
    return [say(move) for move in task.metadata["moves"]]
