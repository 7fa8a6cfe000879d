"""`toolrl sft`: supervised fine-tuning on demonstrations, by TRL's `SFTTrainer`.

The trainer gets rows of `input_ids` and `labels`, which it takes as they are (trl 1.16, trainer/sft_trainer.py,
`_prepare_dataset`): no template is rendered again, and no mask is guessed. The run's folder holds `config.yaml`,
`metrics.jsonl`, TRL's checkpoints, and the model in `model/`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import ModelConfig, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.errors import ConfigError
from toolrl.evaluation import terminal
from toolrl.models import load_tokenizer
from toolrl.rows import read_rows
from toolrl.training.callbacks import MetricsCallback
from toolrl.training.run import (
    adapter_settings,
    find_checkpoint,
    load_to_train,
    parse,
    quieten,
    read_template,
    write_config,
)
from toolrl.training.token_rows import TokenRow, token_row


@dataclass
class DemonstrationArguments:
    """What to learn from; TRL's `SFTConfig` and `ModelConfig` stand beside it unchanged."""

    dataset: list[str] = field(
        default_factory=list,
        metadata={"help": "Files of demonstrations (toolrl demos), or any with `messages` and `tools`; or hub ids."},
    )
    chat_template: str = field(
        default="", metadata={"help": "Path of a Jinja chat template to use in place of the model's."}
    )


def parse_arguments(arguments: list[str]) -> tuple[DemonstrationArguments, SFTConfig, ModelConfig]:
    """Read the command line and `--config FILE`, as `toolrl.training.run.parse_arguments` does."""
    return parse((DemonstrationArguments, SFTConfig, ModelConfig), "toolrl sft", arguments)


def fine_tune(
    arguments: DemonstrationArguments, args: SFTConfig, model_config: ModelConfig, console: Console | None = None
) -> SFTTrainer:
    """Fine-tune a model, and write it into the run's folder.

    Returns:
        The trainer, when it is done.

    Raises:
        UserError: A setting or a row of the data is wrong; nothing has been trained.
    """
    console = console or terminal()
    quieten()
    datasets.disable_progress_bars()
    _check(arguments, args)
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, revision=model_config.model_revision)
    if template := read_template(arguments.chat_template):
        tokenizer.chat_template = template  # saved with the model
    rows = read_token_rows(arguments.dataset, Renderer(tokenizer), args.max_length, console)
    checkpoint = find_checkpoint(args)
    folder = Path(str(args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = SFTTrainer(
        model=load_to_train(name, model_config),
        args=args,
        train_dataset=datasets.Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows]),
        processing_class=tokenizer,
        peft_config=adapter_settings(model_config),
        callbacks=[MetricsCallback(folder), _Progress(console)],
    )
    for replaced in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(replaced)
    main = trainer.is_world_process_zero()
    if main:
        write_config(folder / "config.yaml", arguments, args, model_config)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(folder / "model"))
    if main:
        console.print(f"run folder: {folder} (metrics.jsonl, model/)", soft_wrap=True)
    return trainer


def read_token_rows(sources: list[str], renderer: Renderer, max_length: int | None, console: Console) -> list[TokenRow]:
    """Read all demonstrations. One that is too long is left out: cut, it would teach to stop nowhere.

    Raises:
        TaskError: A file or a row is broken.
        ConfigError: None is left.
    """
    rows = [token_row(row, renderer, place) for source in sources for place, row in read_rows(source)]
    kept = [row for row in rows if max_length is None or len(row.input_ids) <= max_length]
    longest = max((len(row.input_ids) for row in rows), default=0)
    if not kept:
        raise ConfigError(f"no demonstration is left of {len(rows)}; the longest has {longest} tokens (--max_length)")
    learnt = sum(label >= 0 for row in kept for label in row.labels)
    console.print(
        f"{len(kept)} demonstrations, {sum(row.is_sampled for row in kept)} of them as sampled, the others rendered; "
        f"{learnt} tokens to learn of {sum(len(row.input_ids) for row in kept)}",
        soft_wrap=True,
    )
    if len(kept) < len(rows):
        console.print(
            f"{len(rows) - len(kept)} more are longer than --max_length {max_length} (the longest has {longest} "
            "tokens) and were left out",
            style="yellow",
            soft_wrap=True,
        )
    return kept


def _check(arguments: DemonstrationArguments, args: SFTConfig) -> None:
    if not arguments.dataset:
        raise ConfigError("nothing to learn from; pass --dataset demos.jsonl (toolrl demos writes such files)")
    if args.assistant_only_loss or args.completion_only_loss:
        raise ConfigError(
            "the loss is on the assistant's tokens in any case; remove --assistant_only_loss and --completion_only_loss"
        )
    if args.eval_strategy != "no":
        raise ConfigError("eval_strategy is not supported; evaluate with: toolrl eval ENV --model OUTPUT_DIR/model")


class _Progress(TrainerCallback):
    """Prints a line per log."""

    def __init__(self, console: Console):
        self._console = console
        self._start = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._start = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            accuracy = logs.get("mean_token_accuracy")
            right = "" if accuracy is None else f"  tokens right {float(accuracy):.3f}"
            self._console.print(
                f"step {state.global_step:>4}/{state.max_steps} {time.monotonic() - self._start:5.0f} s  "
                f"loss {float(logs['loss']):.4f}{right}",
                soft_wrap=True,
                highlight=False,
            )
