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
from toolrl.errors import ConfigError, UserError
from toolrl.evaluation import terminal
from toolrl.policy.models import load_tokenizer
from toolrl.support.rows import is_arrow, read_rows
from toolrl.training.callbacks import MetricsCallback
from toolrl.training.card import write_card
from toolrl.training.checkpoints import StampCallback, find_checkpoint, passed_over
from toolrl.training.flags import refuse_unhonoured
from toolrl.training.folder import run_folder, write_config
from toolrl.training.loading import adapter_settings, bytes_of, load_to_train, loading_options, read_template
from toolrl.training.memory import check_memory, read_size
from toolrl.training.parsing import parse
from toolrl.training.run import quieten
from toolrl.training.token_rows import TokenRow, token_row
from toolrl.training.values import is_refusal, refusals


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
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete what an earlier run left in output_dir, and start afresh."}
    )
    check_memory: bool = field(
        default=True, metadata={"help": "Compare what training takes of memory with what is free, before it starts."}
    )


class DemonstrationTrainer(SFTTrainer):
    """TRL's, with a README.md of ours."""

    model_name = ""
    sources: list[str] = []  # noqa: RUF012 - replaced, never changed

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run's README.md; TRL's draft names no local model."""
        if self.is_world_process_zero():
            facts = {"learning rate": self.args.learning_rate, "steps": self.state.global_step}
            write_card(
                Path(str(self.args.output_dir)),
                method="SFT",
                model=self.model_name,
                learnt_from=self.sources,
                citation="",
                facts=facts,
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
    if not arguments.dataset:
        raise ConfigError("nothing to learn from; pass --dataset demos.jsonl (toolrl demos writes such files)")
    refuse_unhonoured(arguments, args, model_config)
    checkpoint = find_checkpoint(args)
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, **loading_options(args, model_config))
    if template := read_template(arguments.chat_template):
        tokenizer.chat_template = template  # saved with the model
    rows = read_token_rows(arguments.dataset, Renderer(tokenizer), args.max_length, console)
    peft_config = adapter_settings(name, model_config)
    if arguments.check_memory:
        size = read_size(name, peft_config=peft_config, **loading_options(args, model_config))
        longest = max(len(row.input_ids) for row in rows)
        if warning := check_memory(size, args, longest, bytes_of(model_config), device=args.device, own=False):
            console.print(warning, style="yellow", soft_wrap=True, markup=False)
    with run_folder(args, checkpoint, overwrite=arguments.overwrite_output_dir) as folder:
        with refusals("TRL"):
            trainer = DemonstrationTrainer(
                model=load_to_train(name, args, model_config),
                args=args,
                train_dataset=datasets.Dataset.from_list(
                    [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
                ),
                processing_class=tokenizer,
                peft_config=peft_config,
                callbacks=[MetricsCallback(folder), StampCallback(), _Progress(console)],
            )
        trainer.model_name, trainer.sources = name, arguments.dataset
        for replaced in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            trainer.remove_callback(replaced)
        if main := trainer.is_world_process_zero():
            write_config(folder / "config.yaml", arguments, args, model_config)
            trainer.create_model_card()
        for problem in passed_over(checkpoint, args.world_size) if checkpoint and main else []:
            console.print(f"going on from {checkpoint}; passed over {problem}", style="yellow", markup=False)
        before = trainer.state.global_step
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Exception as error:
            if trainer.state.global_step > before or isinstance(error, UserError) or not is_refusal(error):
                raise
            raise ConfigError(
                f"training cannot start: {type(error).__name__}: {' '.join(str(error).split())[:600]}"
            ) from error
        trainer.save_model(str(folder / "model"))
        trainer.create_model_card()
    if main:
        console.print(f"run folder: {folder} (metrics.jsonl, model/)", soft_wrap=True)
    return trainer


def read_token_rows(sources: list[str], renderer: Renderer, max_length: int | None, console: Console) -> list[TokenRow]:
    """Read all demonstrations. One that is too long is left out: cut, it would teach to stop nowhere.

    Raises:
        TaskError: A file or a row is broken.
        ConfigError: None is left.
    """
    rows = [
        token_row(row, renderer, place, filled=is_arrow(source))
        for source in sources
        for place, row in read_rows(source)
    ]
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
