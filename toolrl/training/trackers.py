"""Episodes as tables in the trackers of `--report_to`; transformers' own callbacks send them the metrics."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback

from toolrl.support.secret_values import hide
from toolrl.trajectory import Trajectory

EVERY = 10  # steps between two tables, unless --sample_every says otherwise
MOST = 8  # episodes
_CHARACTERS = 4_000  # of a conversation
_NAME = "episodes"


class EpisodeTables(TrainerCallback):
    """Sends a group of episodes to Weights & Biases, trackio, TensorBoard and MLflow, at the logs of some steps.

    Comes after the trackers' own callbacks, which open their runs.
    """

    def __init__(self, sample_every: int = 0):
        """Send a table every `sample_every` steps."""
        self._every = sample_every or EVERY
        self.run: Any = None

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Send a group of the latest batch."""
        is_due = state.global_step == 1 or state.global_step % self._every == 0
        if not (state.is_world_process_zero and logs and "reward" in logs and is_due and self.run.last_batch):
            return
        rows = episode_rows(self.run.last_batch, state.global_step)
        for tracker in args.report_to:
            if tracker in ("wandb", "trackio"):  # trackio has the interface of wandb
                library = importlib.import_module(tracker)
                table = library.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
                library.log({_NAME: table, "train/global_step": state.global_step})
            elif tracker == "mlflow":
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                importlib.import_module(tracker).log_table(columns, f"{_NAME}/step-{state.global_step}.json")
            elif tracker == "tensorboard":
                for callback in self.run.trainer.callback_handler.callbacks:
                    if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                        callback.tb_writer.add_text(_NAME, _markdown(rows), state.global_step)


def episode_rows(batch: Sequence[Trajectory], step: int) -> list[dict[str, Any]]:
    """The rows of a table: a group whose rewards differ, if there is one, as it is what the step learns from."""
    groups: dict[Any, list[Trajectory]] = {}
    for trajectory in batch:
        groups.setdefault(trajectory.info.get("group"), []).append(trajectory)
    chosen = max(groups.values(), key=lambda group: len({t.score.value for t in group}) > 1)
    return [
        {
            "step": step,
            "environment": t.env_id,
            "task": t.task_id,
            "reward": t.score.value,
            "success": t.score.success,
            "stop": str(t.stop),
            "calls": len(t.tool_results),
            "sampled_tokens": sum(t.mask),
            "seconds": round(t.seconds, 2),
            "answer": hide(t.score.answer or ""),
            "conversation": _conversation(t),
        }
        for t in chosen[:MOST]
    ]


def _conversation(trajectory: Trajectory) -> str:
    parts = []
    for message in trajectory.messages:
        calls = [
            f"-> {call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}" for call in message.tool_calls
        ]
        parts.append("\n".join([f"{message.role}: {message.content}", *calls]))
    text = hide("\n\n".join(parts))
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} ..."


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, in which nothing that a model wrote is taken for markup."""

    def cell(value: Any) -> str:
        text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
        return "<br>".join(text.splitlines())

    head = f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}\n"
    return head + "\n".join(f"| {' | '.join(map(cell, row.values()))} |" for row in rows)
