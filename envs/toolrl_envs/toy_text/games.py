"""Gymnasium's toy-text games in words, and somebody who plays each of them as well as can be."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

from toolrl.interop import Game

LAKE_SIZES = range(4, 7)
_HOLES = 0.25  # share of a lake's cells
_LAKE_MOVES = ("left", "down", "right", "up")
_CLIFF_MOVES = ("up", "right", "down", "left")
_TAXI_MOVES = ("south", "north", "east", "west", "pickup", "dropoff")
_STOPS = ("red", "green", "yellow", "blue")
_CARDS = ("stick", "hit")
_DISCOUNT, _TOLERANCE, _NEARLY = 0.95, 1e-6, 1e-5

_LAKE = "Cross the frozen lake from the start (S) to the goal (G), over ice (F) and around holes (H)."
_SLIPPERY = " One move in five slides to the side."
_TAXI = (
    "Drive the taxi to the passenger, pickup, drive to the destination, dropoff. Taxis cross ':' but not '|':\n"
    "+---------+\n|R: | : :G|\n| : | : : |\n| : : : : |\n| | : | : |\n|Y| : |B: |\n+---------+\n"
    "R is red, G green, Y yellow, B blue."
)
_CLIFF = (
    "Walk to the goal, in row 4, column 12 of 4 rows and 12 columns. Row 4, columns 2 to 11, is a cliff: whoever steps "
    "off it has failed."
)
_BLACKJACK = (
    "Come closer to 21 than the dealer, without going over. An ace counts 11 where that fits, and is then usable. "
    "The dealer draws to 17."
)


@dataclass(frozen=True)
class Kind:
    """A game in words.

    Attributes:
        rules: The beginning of the prompt.
        moves: The names of the actions.
        make: Makes the game of a seed; `size` is that of a lake.
        describe: Writes an observation, given what came with it and the game.
        player: Given a game, chooses the best move after an observation.
        won: Whether a game that is over was won.
        is_shared: Whether one game can begin again for each seed.
        is_random: Whether the same moves in the same place may end differently under another seed.
    """

    rules: str
    moves: tuple[str, ...]
    make: Callable[[int, int], Any]
    describe: Callable[[Any, Mapping[str, Any], Any], str]
    player: Callable[[Any], Callable[[Any], str]]
    won: Callable[[Game], bool]
    is_shared: bool = True
    is_random: bool = False

    def board(self, seed: int, size: int) -> str:
        """What is drawn in the prompt; it tells lakes apart before they are made, which takes a while."""
        return "\n".join(map(" ".join, _lake_map(seed, size))) + "\n" if self.moves is _LAKE_MOVES else ""

    def key(self, board: str) -> str:
        """The same for a board however it is turned or mirrored."""
        return min(map("\n".join, _turned(board.splitlines())))

    def prompt(self, board: str, text: str) -> str:
        """The prompt of a game with this board, which begins with this text."""
        return f"{self.rules}\n{board}Moves: {', '.join(self.moves)}.\n{text}"


def _turned(rows: Sequence[str]) -> list[list[str]]:
    """Rows that are turned by quarters, and mirrored too."""
    boards = [[row.replace(" ", "") for row in rows]]
    for _ in range(3):
        boards.append(["".join(column) for column in zip(*reversed(boards[-1]), strict=True)])
    return boards + [board[::-1] for board in boards]


def _lake_map(seed: int, size: int) -> list[str]:
    """Rows of a lake whose goal, in the corner opposite the start, can be reached."""
    rng = random.Random(seed)
    while True:
        cells = ["H" if rng.random() < _HOLES else "F" for _ in range(size * size)]
        cells[0], cells[-1] = "S", "G"
        reached, waiting = {0}, [0]
        while waiting:
            row, column = divmod(waiting.pop(), size)
            for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                place = y * size + x
                if 0 <= y < size and 0 <= x < size and place not in reached and cells[place] != "H":
                    reached.add(place)
                    waiting.append(place)
        if size * size - 1 in reached:
            rows = ["".join(cells[start : start + size]) for start in range(0, size * size, size)]
            return rng.choice(_turned(rows))


def _make_lake(slippery: bool) -> Callable[[int, int], Any]:
    return lambda seed, size: FrozenLakeEnv(desc=_lake_map(seed, size), is_slippery=slippery, success_rate=0.8)


def _lake(observation: int, info: Mapping[str, Any], env: Any) -> str:
    cells, size = env.unwrapped.desc, len(env.unwrapped.desc)
    row, column = divmod(int(observation), size)
    here = cells[row, column]
    if here in (b"G", b"H"):
        return "You have reached the goal." if here == b"G" else "You have fallen into a hole."
    around: dict[bytes, list[str]] = {b"F": [], b"H": []}
    for move, (down, right) in zip(_LAKE_MOVES, ((0, -1), (1, 0), (0, 1), (-1, 0)), strict=True):
        y, x = row + down, column + right
        if 0 <= y < size and 0 <= x < size and cells[y, x] != b"G":
            around[b"H" if cells[y, x] == b"H" else b"F"].append(move)
    down, right = (int(axis[0]) - place for axis, place in zip((cells == b"G").nonzero(), (row, column), strict=True))
    ways = [f"{abs(down)} {'down' if down > 0 else 'up'}"] * bool(down)
    ways += [f"{abs(right)} {'right' if right > 0 else 'left'}"] * bool(right)
    seen = {"hole": around[b"H"], "ice": around[b"F"], "goal": ways}
    facts = [f"{name} {', '.join(places)}" for name, places in seen.items() if places]
    return "; ".join([f"Row {row + 1}, column {column + 1}", *facts]) + "."


class _Cliff(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The cliff, with a start that depends on the seed: as made, it has only one."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        starts = [place for place in range(48) if not place >= 37]
        game: Any = self.unwrapped
        game.s = random.Random(seed).choice(starts)
        return int(game.s), info


def _cliff(observation: int, info: Mapping[str, Any], env: Any) -> str:
    row, column = divmod(int(observation), 12)
    return f"Row {row + 1}, column {column + 1}."


def _taxi(observation: int, info: Mapping[str, Any], env: Any) -> str:
    row, column, passenger, destination = env.unwrapped.decode(int(observation))
    rides = passenger == len(_STOPS)
    waits = "rides with you" if rides else f"waits at {_STOPS[passenger]}"
    effective = ", ".join(move for move, does in zip(_TAXI_MOVES, info["action_mask"], strict=True) if does)
    place = f"Row {row + 1}, column {column + 1}."
    return f"{place} The passenger {waits} and goes to {_STOPS[destination]}. Possible: {effective}."


def _blackjack(observation: tuple[int, int, int], info: Mapping[str, Any], env: Any) -> str:
    total, shown, usable = map(int, observation)
    hand = f"You hold {total}{' with a usable ace' if usable else ''}"
    return f"{hand}. The dealer shows {'an ace' if shown == 1 else shown}."


def _basic_strategy(observation: tuple[int, int, int]) -> str:
    """Blackjack's basic strategy without splitting and doubling (E. Thorp, Beat the Dealer, 1966)."""
    total, shown, usable = map(int, observation)
    if usable:
        return "stick" if total >= (19 if shown in (1, 9, 10) else 18) else "hit"
    weak = shown in (4, 5, 6) if total == 12 else shown in (2, 3, 4, 5, 6)
    return "stick" if total >= 17 or (total >= 12 and weak) else "hit"


def best_actions(table: Mapping[int, Mapping[int, list[tuple[float, int, float, bool]]]], preference: Any = 0.0) -> Any:
    """(S,) the best action in each state, by value iteration over a table of transitions, Gymnasium's `P`.

    Which of equally good ones it is depends on `preference`, (S, A) between 0 and 1; else it is the first.
    """
    states, actions = len(table), len(table[0])
    chance = np.zeros((states, actions, states))
    gain = np.zeros((states, actions))
    for state, row in table.items():
        for action, outcomes in row.items():
            for probability, after, reward, is_over in outcomes:
                gain[state, action] += probability * reward
                if not is_over:
                    chance[state, action, after] += probability
    flat, values = chance.reshape(-1, states), np.zeros(states)
    while True:
        worth = gain + _DISCOUNT * (flat @ values).reshape(states, actions)  # (S, A)
        change, values = np.abs(worth.max(1) - values).max(), worth.max(1)
        if change < _TOLERANCE:
            return (worth + _NEARLY * preference).argmax(1)


@functools.cache
def _fixed_plan(game: Callable[[], Any]) -> Any:
    return best_actions(game().P)


def _plan(lake: Any) -> Any:
    """The best moves on a lake; of equally good ones any, so that they show no habit."""
    rng = random.Random(lake.desc.tobytes())
    preference = np.array([[rng.random() for _ in _LAKE_MOVES] for _ in range(lake.desc.size)])
    return best_actions(lake.P, preference)


def _planner(moves: Sequence[str], fixed: Callable[[], Any] | None = None) -> Callable[[Any], Callable[[Any], str]]:
    """A player by plan; `fixed` makes a game whose table is always the same."""

    def player(env: Any) -> Callable[[Any], str]:
        plan = _fixed_plan(fixed) if fixed else _plan(env.unwrapped)
        return lambda observation: moves[plan[int(observation)]]

    return player


def _has_won(game: Game) -> bool:
    return game.total > 0


def _kept_off_the_cliff(game: Game) -> bool:
    return bool(game.ending) and game.total > -100


KINDS: dict[str, Kind] = {
    "frozen_lake": Kind(
        _LAKE, _LAKE_MOVES, _make_lake(False), _lake, _planner(_LAKE_MOVES), _has_won, is_shared=False
    ),
    "slippery_lake": Kind(
        _LAKE + _SLIPPERY, _LAKE_MOVES, _make_lake(True), _lake, _planner(_LAKE_MOVES), _has_won, is_shared=False,
        is_random=True,
    ),
    "cliff_walking": Kind(
        _CLIFF, _CLIFF_MOVES, lambda seed, size: _Cliff(CliffWalkingEnv()), _cliff,
        _planner(_CLIFF_MOVES, CliffWalkingEnv), _kept_off_the_cliff,
    ),
    "taxi": Kind(
        _TAXI, _TAXI_MOVES, lambda seed, size: TaxiEnv(), _taxi, _planner(_TAXI_MOVES, TaxiEnv),
        lambda game: bool(game.ending),
    ),
    "blackjack": Kind(
        _BLACKJACK, _CARDS, lambda seed, size: BlackjackEnv(sab=True), _blackjack, lambda env: _basic_strategy,
        _has_won, is_random=True,
    ),
}  # fmt: skip
