"""Promises about `toolrl/ToyText-v0` and `toolrl/Wordle-v0`: their rules, and oracles without foresight."""

from __future__ import annotations

from typing import Any

import pytest

from toolrl import ConfigError, ToolEnv, make
from toolrl_envs.toy_text.games import KINDS
from toolrl_envs.wordle.game import GUESSES, MOST_AWARDED, best_guess, fitting, marks, read_guess, solution, value
from toolrl_envs.wordle.words import WORDS


def play(env: ToolEnv, task: Any, *said: str) -> tuple[list[str], list[float], dict[str, Any]]:
    """Replies, rewards and the last step's info; stops at the end of the episode."""
    env.reset(options={"task": task})
    replies, rewards = [], []
    for text in said:
        reply, reward, terminated, truncated, info = env.step(text)
        replies.append(reply)
        rewards.append(reward)
        if terminated or truncated:
            break
    return replies, rewards, info


# ---- ToyText


@pytest.fixture(scope="module")
def toys() -> ToolEnv:
    return make("toolrl/ToyText-v0", size=30)


def of_kind(env: ToolEnv, kind: str) -> list[Any]:
    return [task for task in env.tasks if task.kind == kind]


def test_every_kind_of_game_is_drawn_and_only_those_that_were_asked_for(toys: ToolEnv) -> None:
    assert {task.kind for task in toys.tasks} == set(KINDS)
    assert {task.kind for task in make("toolrl/ToyText-v0", size=5, kinds=["taxi", "blackjack"]).tasks} == {
        "taxi",
        "blackjack",
    }
    sizes = {len(task.prompt.splitlines()[1].split()) for task in of_kind(toys, "frozen_lake")}
    assert sizes <= {4, 5, 6}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kinds": ["chess"]}, "kinds has 'chess'"), ({"lake_size": 9}, "lake_size must be from 4 to 6, got 9")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("toolrl/ToyText-v0", **settings)


def test_a_kind_with_few_starts_gives_what_there_is() -> None:
    cliffs = [make("toolrl/ToyText-v0", split=split, kinds=["cliff_walking"], size=200) for split in ("train", "test")]
    prompts = [{task.prompt for task in env.tasks} for env in cliffs]
    assert sum(map(len, prompts)) == 37  # 48 cells, without the cliff's ten and the goal


def test_surplus_moves_cost_and_losing_earns_nothing(toys: ToolEnv) -> None:
    task = of_kind(toys, "frozen_lake")[0]
    moves = list(task.metadata["moves"])
    assert play(toys, task, *moves)[2]["score"]["value"] == 1.0
    assert play(toys, task, "left", "hm", *moves)[2]["score"]["value"] == pytest.approx(0.9)
    assert play(toys, task, *["left"] * toys.limits.turns)[2]["score"]["value"] == 0.0
    cliff = next(task for task in of_kind(toys, "cliff_walking") if "Row 1, column 5" not in task.prompt)
    _, rewards, info = play(toys, cliff, *["down"] * 3, *["right"] * 12, *cliff.metadata["moves"])
    assert info["score"]["value"] == pytest.approx(sum(rewards))


def test_a_fall_off_the_cliff_fails_even_if_the_goal_is_reached_later() -> None:
    env = make("toolrl/ToyText-v0", kinds=["cliff_walking"], size=30)
    task = next(task for task in env.tasks if "Row 3, column 4." in task.prompt or "Row 2, column 4." in task.prompt)
    down = ["down"] * (2 if "Row 2" in task.prompt else 1)
    replies, rewards, info = play(env, task, *down, "up", *["right"] * 11, "down")
    assert (rewards[len(down) - 1], replies[len(down) - 1]) == (-100.0, "Row 4, column 1.")
    assert (info["stop"], info["score"]["value"]) == ("user", 0.0)


def test_the_oracle_needs_no_foresight(toys: ToolEnv) -> None:
    """Its moves are those of a player who sees the game's rules and the observation only."""
    for kind in KINDS:
        task = of_kind(toys, kind)[0]
        game = KINDS[kind].make(task.metadata["seed"], task.metadata["lake_size"])
        choose = KINDS[kind].player(game)
        observation, _ = game.reset(seed=task.metadata["seed"])
        for move in task.metadata["moves"]:
            assert choose(observation) == move
            observation, *_ = game.step(KINDS[kind].moves.index(move))


def lakes(split: str) -> ToolEnv:
    return make("toolrl/ToyText-v0", split=split, kinds=["frozen_lake"], lake_size=4, size=60)


def test_observations_say_what_is_around_and_where_the_goal_is() -> None:
    starts = set()
    for task in lakes("train").tasks:
        rows = [row.split() for row in task.prompt.splitlines()[1:5]]
        row, column = next((y, x) for y in (0, 3) for x in (0, 3) if rows[y][x] == "S")
        assert rows[3 - row][3 - column] == "G"
        ways = ["down" if row == 0 else "up", "right" if column == 0 else "left"]
        cells = {ways[0]: rows[1 if row == 0 else 2][column], ways[1]: rows[row][1 if column == 0 else 2]}
        seen = [(name, [move for move in ("left", "down", "right", "up") if cells.get(move) == cell])
                for name, cell in (("hole", "H"), ("ice", "F"))]  # fmt: skip
        around = "".join(f"{name} {', '.join(moves)}; " for name, moves in seen if moves)
        assert task.prompt.endswith(f"\nRow {row + 1}, column {column + 1}; {around}goal 3 {ways[0]}, 3 {ways[1]}.")
        starts.add((row, column))
    assert len(starts) == 4


def test_the_way_to_the_goal_is_counted_from_where_the_player_is(toys: ToolEnv) -> None:
    task = next(task for task in of_kind(toys, "frozen_lake") if len(task.metadata["moves"]) < 12)
    replies, *_ = play(toys, task, *task.metadata["moves"])
    assert replies[-2].endswith(f"; goal 1 {task.metadata['moves'][-1]}.")
    assert replies[-1] == "You have reached the goal."


def test_the_oracle_of_a_lake_has_no_habit_among_equally_good_moves() -> None:
    free = [task for task in lakes("train").tasks if "hole" not in task.prompt.splitlines()[-1]]
    first = [task.metadata["moves"][0] in ("left", "right") for task in free]
    assert 0.2 < sum(first) / len(first) < 0.8


def test_no_lake_of_a_split_is_one_of_the_other_turned_or_mirrored() -> None:
    kind = KINDS["frozen_lake"]
    keys = [
        {kind.key(kind.board(task.metadata["seed"], 4)) for task in lakes(split).tasks} for split in ("train", "test")
    ]
    assert not keys[0] & keys[1]


# ---- Wordle


@pytest.mark.parametrize(
    ("guess", "secret", "expected"),
    [
        ("crane", "crane", "====="),
        ("stone", "notes", "~~~~~"),
        ("geese", "eagle", "~~--="),
        ("allay", "llama", "~=~~-"),
        ("speed", "abide", "--~-~"),
        ("eerie", "fever", "~=~--"),
        ("vivid", "civic", "-===-"),
    ],
)
def test_a_letter_is_marked_as_often_as_the_word_has_it(guess: str, secret: str, expected: str) -> None:
    assert marks(guess, secret) == expected


def test_the_list_has_words_of_five_letters_without_repetition() -> None:
    assert len(set(WORDS)) == len(WORDS) > 600
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) == 5 for word in WORDS)


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("crane", "crane"), (" Crane.\n", "crane"), ("so: <answer>crane</answer>", "crane"), ('"CRANE"', "crane"),
        ("cranes", None), ("crane stone", None), ("", None), ("кране", None), ("cr4ne", None),
        ("<answer></answer>", None),
    ],
)  # fmt: skip
def test_a_guess_is_one_word(text: str, guess: str | None) -> None:
    assert read_guess(text) == guess


@pytest.fixture(scope="module")
def wordle() -> ToolEnv:
    return make("toolrl/Wordle-v0", size=40)


def test_the_solver_finds_every_word_and_goes_by_the_marks_only() -> None:
    for secret in WORDS[::40]:
        guesses = solution(secret, "stone" if secret != "stone" else "crane")
        assert guesses[-1] == secret
        assert len(guesses) <= GUESSES
    twins = [word for word in WORDS if marks("crane", word) == "-----"]
    assert (
        solution(twins[0], "crane")[0]
        == solution(twins[-1], "crane")[0]
        == best_guess(fitting(WORDS, "crane", "-----"))
    )


def test_a_guess_is_answered_with_its_marks_and_a_refused_one_is_not_counted(wordle: ToolEnv) -> None:
    task = wordle.tasks[0]
    wrong = next(word for word in WORDS if word not in (task.answer, task.metadata["opening"]))
    replies, _, info = play(wordle, task, "not a word", task.metadata["opening"], wrong, wrong, task.answer)
    assert replies[0] == "error: say one word of five letters"
    assert replies[1] == f"error: {task.metadata['opening']} was guessed before"
    assert replies[2].startswith(f"{wrong[0]}: ")
    assert replies[2].endswith("5 guesses left.")
    assert replies[3] == f"error: {wrong} was guessed before"
    assert (replies[4], info["ending"]) == (f"{task.answer} is the word.", "solved")
    assert info["score"]["value"] == value(2)


def test_awards_are_for_new_letters_only_and_bounded(wordle: ToolEnv) -> None:
    for task in list(wordle.tasks)[:10]:
        others = [word for word in WORDS if word not in (task.answer, task.metadata["opening"])]
        close = sorted(others, key=lambda word: marks(word, task.answer).count("-"))[:6]
        _, rewards, info = play(wordle, task, *close)
        assert (info["stop"], info["ending"], info["score"]["parts"]["correct"]) == ("user", "lost", 0.0)
        assert info["score"]["value"] == pytest.approx(sum(rewards))
        assert 0 <= info["score"]["value"] <= MOST_AWARDED
        _, again, info = play(wordle, task, *[close[0]] * 10)
        assert again[1:] == [0.0] * 9
        assert sum(again) <= MOST_AWARDED


def test_the_splits_share_no_secret() -> None:
    secrets = [
        {task.answer for task in make("toolrl/Wordle-v0", split=split, size=300).tasks} for split in ("train", "test")
    ]
    assert not secrets[0] & secrets[1]
    assert min(map(len, secrets)) > 80
