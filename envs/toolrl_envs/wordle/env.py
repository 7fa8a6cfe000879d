"""The `toolrl/Wordle-v0` environment."""

from __future__ import annotations

import random

from toolrl import Episode, Limits, Message, Score, Task, TaskSet, ToolEnv, is_held_out, say
from toolrl.audit import AuditOptions
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.wordle.game import GUESSES, MOST_AWARDED, GameMaster, marks, solution, told, value
from toolrl_envs.wordle.words import WORDS

_SYSTEM_PROMPT = (
    "Guess the secret English word of five letters, with at most six guesses. After each you are told of every letter "
    "whether it stands here in the word, or elsewhere, or no more of it does. Say your guess, one word, and nothing "
    "else."
)


class WordleEnv(ToolEnv):
    """A secret word of five letters, and what is told about the letters of each guess."""

    audit_options = AuditOptions(chance=MOST_AWARDED)  # letters that are found earn a part

    def __init__(self, split: Split = "train", *, size: int = 1000, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; they share no secret word.
            size: Number of tasks.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range.
        """
        super().__init__(
            tasks=make_tasks(split, size, seed),
            user=GameMaster,
            reward=judge,
            system_prompt=_SYSTEM_PROMPT,
            limits=Limits(turns=GUESSES + 4, awards=MOST_AWARDED),
            oracle=solve,
            render_mode=render_mode,
        )


def make_tasks(split: Split, size: int, seed: int) -> TaskSet:
    """Draw secret words, each with a first guess that somebody has made."""
    check_split(split, size)
    rng = random.Random(f"{split}/{seed}")
    is_test = split == "test"
    secrets = [word for word in WORDS if is_held_out(word) == is_test]
    tasks: dict[str, Task] = {}
    while len(tasks) < size:
        secret, opening = rng.choice(secrets), rng.choice(WORDS)
        prompt = f"The first guess, {opening}, was wrong.\n{told(opening, secret)}.\n{GUESSES} guesses left."
        if secret == opening or is_held_out(prompt) != is_test:  # two secrets may begin alike
            continue
        id = task_id("word", f"{secret}/{opening}")
        metadata = {"opening": opening, "subject": secret}
        known = 5 - marks(opening, secret).count("-")
        tasks[id] = Task(id, prompt, secret, metadata, kind=f"{known}_letters", needs_tool=False, difficulty=5 - known)
    return TaskSet(tasks.values())


def judge(task: Task, episode: Episode) -> Score:
    """1 for the first guess down to 0.5 for the last; without the word what the letters earned, at most 0.2."""
    master: GameMaster | None = episode.state.get("user")
    if master is None or not master.is_solved:
        return Score(episode.awarded, {"correct": 0.0}, reason=episode.ending or "not over")
    return Score(value(len(master.guesses)), {"correct": 1.0, "guesses": len(master.guesses)}, reason="solved")


def solve(task: Task) -> list[Message]:
    """Guesses that go by the list of words and the marks, not by the secret."""
    return [say(guess) for guess in solution(task.answer, task.metadata["opening"])]
