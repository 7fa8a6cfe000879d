"""Episodes until a game with rewards on the way is learnt: credit for turns against credit for whole episodes.

Six doors, one after the other; behind each, one of three ways is right, is awarded at once, and is the same in every
game. The score is the sum of the awards, so both kinds of credit optimise the same. The embedded policy begins with
demonstrations that choose at random. TURN_CREDIT_SEEDS=1 plays one seed.
"""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any, cast

from transformers import Qwen3ForCausalLM, TrainerCallback
from trl import GRPOConfig  # type: ignore[attr-defined]

from tests.benchmarks.common import table
from toolrl import Ended, Limits, Message, Renderer, Task, ToolEnv, award, say
from toolrl.evaluation import mean
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.tiny.fitting import IGNORED, Example, fit
from toolrl.training import GRPORun
from toolrl.training.credit import CreditSettings

SEEDS = int(os.environ.get("TURN_CREDIT_SEEDS", "3"))
WAYS, RIGHT = ("left", "right", "up"), (0, 2, 1, 1, 0, 2)
GROUP, TASKS, STEPS = 8, 4, 70
LEARNT, LAST = 0.9, 3  # mean score of the last steps
SYSTEM_PROMPT = "Say left, right or up."


def keeper(message: str, state: dict[str, Any]) -> str | Ended:
    """Award the right way, and go on to the next door."""
    door = state.setdefault("door", 0)
    if message.strip() == WAYS[RIGHT[door]]:
        award(1 / len(RIGHT))
    state["door"] += 1
    return Ended("The end.") if state["door"] == len(RIGHT) else f"Door {state['door'] + 1}."


def doors() -> ToolEnv:
    return ToolEnv(
        tasks=[Task(str(number), "Door 1.") for number in range(TASKS)],
        user=keeper,
        reward=lambda task, episode: episode.awarded,
        system_prompt=SYSTEM_PROMPT,
        limits=Limits(turns=len(RIGHT), turn_tokens=8),
    )


def starting_policy() -> Qwen3ForCausalLM:
    """The embedded policy, after demonstrations that choose at random."""
    model, rng = cast(Qwen3ForCausalLM, load_model("tiny")), random.Random(0)
    renderer = Renderer(load_tokenizer("tiny"))
    prompt = renderer.prompt_ids([Message("system", SYSTEM_PROMPT), Message("user", "Door 1.")])

    def row() -> Example:
        ids, labels = list(prompt), [IGNORED] * len(prompt)
        for door in range(len(RIGHT)):
            said = renderer.assistant_ids(say(rng.choice(WAYS)))
            seen = renderer.observation_ids([Message("user", f"Door {door + 2}.")])
            ids += said + seen
            labels += said + [IGNORED] * len(seen)
        return Example(ids, labels)

    rows = [row() for _ in range(320)]
    fit(model, lambda _: rows, epochs=2, learning_rate=1e-3, batch_tokens=2048, seed=0)
    return model


class Scores(TrainerCallback):
    """The mean score of each step; ends training when the game is learnt."""

    def __init__(self) -> None:
        self.run: GRPORun | None = None
        self.means: list[float] = []

    @property
    def learnt(self) -> bool:
        return len(self.means) >= LAST and (mean(self.means[-LAST:]) or 0.0) >= LEARNT

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.run is not None
        self.means.append(mean(t.score.value or 0.0 for t in self.run.last_batch) or 0.0)
        control.should_training_stop = control.should_training_stop or self.learnt


def learn(start: dict[str, Any], credit: str, seed: int) -> tuple[int | None, list[float]]:
    """The episodes until the game is learnt, None if it is not in `STEPS`; and the scores of the steps."""
    model, scores = load_model("tiny"), Scores()
    model.load_state_dict(start)
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            folder, per_device_train_batch_size=GROUP * TASKS, num_generations=GROUP, max_steps=STEPS, seed=seed,
            max_completion_length=128, learning_rate=1e-4, lr_scheduler_type="constant", beta=0.0,
            loss_type="dr_grpo", scale_rewards="none", gradient_checkpointing=False, bf16=False, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1000,
        )  # fmt: skip
        run = scores.run = GRPORun(
            model, load_tokenizer("tiny"), {"tests/Doors": doors()}, args, credit=CreditSettings(credit),
            task_seed=seed, max_turn_tokens=8, callbacks=[scores],
        )  # fmt: skip
        try:
            run.train()
        finally:
            run.close()
    return len(scores.means) * GROUP * TASKS if scores.learnt else None, scores.means


def main() -> str:
    start = starting_policy().state_dict()
    rows = []
    for credit in ("turn", "episode"):
        for seed in range(SEEDS):
            episodes, means = learn(start, credit, seed)
            shown = " ".join(f"{value:.2f}" for value in means[:: max(1, STEPS // 6)])
            rows.append([credit, seed, f"{episodes:,}" if episodes else f"over {STEPS * GROUP * TASKS:,}", shown])
            print(rows[-1], flush=True)
    columns = ["credit", "seed", f"episodes to a mean score of {LEARNT}", f"mean score of every {STEPS // 6}th step"]
    return table(f"Six doors, {GROUP * TASKS} episodes a step", columns, rows)
