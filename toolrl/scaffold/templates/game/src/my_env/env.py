"""A game: collect the coins on a field, a step a turn."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from toolrl import Episode, Limits, Score, Task, TaskSet
from toolrl.audit import AuditOptions
from toolrl.interop import Game, GameEnv

SIZE, COINS, STEPS = 5, 3, 24
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RULES = "Collect all coins. Places are given as column and row. Each turn, say one of left, right, up, down."

Place = tuple[int, int]


class Coins:
    """A field with coins. It has `reset` and `step` as a `gymnasium.Env` does, which may take its place."""

    def reset(self, *, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Put the coins on the field. The seed must fix everything that happens."""
        places = [(column, row) for column in range(SIZE) for row in range(SIZE)]
        self.place, *coins = random.Random(seed).sample(places, 1 + COINS)
        self.coins = set(coins)
        self.steps = 0
        return self.describe(), {}

    def step(self, action: Place) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Walk; each coin earns its share on the way."""
        column, row = (min(max(old + by, 0), SIZE - 1) for old, by in zip(self.place, action, strict=True))
        self.place = (column, row)
        self.steps += 1
        reward = 1 / COINS if self.place in self.coins else 0.0
        self.coins.discard(self.place)
        return self.describe(), reward, not self.coins, self.steps >= STEPS, {}

    def describe(self) -> str:
        """The field in words."""
        coins = ", ".join(f"{column} {row}" for column, row in sorted(self.coins)) or "none left"
        return f"You are at {self.place[0]} {self.place[1]}. Coins: {coins}."


# A task is a seed: its prompt is the first observation.
def make_task(rng: random.Random, index: int) -> Task:
    """Make a field."""
    seed = rng.randrange(2**31)
    prompt, _ = Coins().reset(seed=seed)
    return Task(f"field-{index}", prompt, metadata={"seed": seed}, needs_tool=False)


def open_game(task: Task) -> Game:
    """Start the game of a task. `read` may be a function, for moves that cannot be listed."""
    return Game(Coins(), task.metadata["seed"], read=MOVES)


# The expert shows that a game can be won, and makes demonstrations.
def nearest(observation: str, info: Mapping[str, Any], game: Coins) -> str:
    """Walk towards the nearest coin."""
    column, row = game.place
    to_column, to_row = min(game.coins, key=lambda coin: (abs(coin[0] - column) + abs(coin[1] - row), coin))
    if to_column != column:
        return "right" if to_column > column else "left"
    return "down" if to_row > row else "up"


# Coins are paid on the way (`--credit turn` trains each turn on what it earned), but a game that is not won is worth
# nothing in the end: otherwise a model could learn to stop after the first coin.
def reward(task: Task, episode: Episode) -> Score:
    """1 if all coins were collected."""
    game: Game | None = episode.state.get("game")  # there is none if nobody said a word
    collected = 0 if game is None else COINS - len(game.env.coins)
    won = float(collected == COINS)
    return Score(won, {"correct": won, "coins": collected}, reason=f"{collected} of {COINS} coins")


class MyEnv(GameEnv):
    """Collect the coins on a field."""

    # An exploit that does not count here, and why; `toolrl audit` says so in its report.
    audit_options = AuditOptions(excused={"repeat-each-turn": "walking further may win too, and a coin is paid once"})

    def __init__(self, split: str = "train", *, size: int = 1000, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; about a fifth of the fields is held out.
            size: Number of tasks of both splits together.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.
        """
        super().__init__(
            tasks=TaskSet.generate(make_task, size, seed).of_split(split),
            open_game=open_game,
            expert=nearest,
            reward=reward,
            system_prompt=RULES,
            # A message that says no move costs a turn too, so that every episode ends.
            limits=Limits(turns=STEPS + 6, completion_tokens=2048),
            render_mode=render_mode,
        )
