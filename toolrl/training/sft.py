"""`toolrl sft`: supervised fine-tuning on demonstrations, with TRL's `SFTTrainer`.

The trainer gets rows of `input_ids` and `labels`, which it uses unchanged (trl 1.16, trainer/sft_trainer.py,
`_prepare_dataset`): no template is rendered again, and no mask is guessed. The run's folder holds `config.yaml`,
`metrics.jsonl`, TRL's checkpoints, and the model in `model/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
from rich.console import Console
from trl import ModelConfig, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.chat.variants import read_template
from toolrl.errors import ConfigError
from toolrl.evaluation import terminal
from toolrl.policy.models import load_tokenizer
from toolrl.support.rows import is_arrow, read_rows
from toolrl.training.arguments import RunArguments, setting
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.card import write_card
from toolrl.training.flags import refuse_unsupported, rejections, start_training
from toolrl.training.folder import StampCallback, find_checkpoint, run_folder
from toolrl.training.loading import adapter_settings, load_for_training, loading_options
from toolrl.training.parsing import parse
from toolrl.training.run import begin_run, save_run, silence_libraries, warn_about_memory
from toolrl.training.token_rows import TokenRow, token_row


@dataclass
class DemonstrationArguments(RunArguments):
    """What to learn from; TRL's `SFTConfig` and `ModelConfig` are used unchanged next to it."""

    dataset: list[str] = setting(
        [], "Files of demonstrations (toolrl demonstrations), or any with `messages` and `tools`; or hub ids."
    )


class DemonstrationTrainer(SFTTrainer):
    """TRL's trainer, which writes toolrl's README.md."""

    model_name = ""
    sources: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the run's README.md."""
        if self.is_world_process_zero():
            names = (
                "learning_rate",
                "per_device_train_batch_size",
                "gradient_accumulation_steps",
                "max_length",
                "seed",
            )
            assert isinstance(self.train_dataset, datasets.Dataset)
            facts: dict[str, Any] = {"demonstrations": len(self.train_dataset), "steps": self.state.global_step}
            losses = [row["loss"] for row in self.state.log_history if "loss" in row]
            facts |= {"loss at the end": f"{losses[-1]:.4f}"} if losses else {}
            facts |= {name: getattr(self.args, name) for name in names}
            write_card(self.args, method="SFT", model=self.model_name, sources=self.sources, facts=facts)


def parse_sft_arguments(arguments: list[str]) -> tuple[DemonstrationArguments, SFTConfig, ModelConfig]:
    """Read the settings of a run; see `toolrl.training.parsing.parse`."""
    return parse((DemonstrationArguments, SFTConfig, ModelConfig), "toolrl sft", arguments)


def fine_tune(
    arguments: DemonstrationArguments, args: SFTConfig, model_config: ModelConfig, console: Console | None = None
) -> SFTTrainer:
    """Fine-tune a model, and write it into the run's folder.

    Returns:
        The trainer, after training.

    Raises:
        UserError: A setting or a row of the data is wrong; nothing has been trained.
    """
    console = console or terminal()
    silence_libraries()
    datasets.disable_progress_bars()
    if not arguments.dataset:
        raise ConfigError(
            "nothing to learn from; pass --dataset demonstrations.jsonl (toolrl demonstrations writes such files)"
        )
    refuse_unsupported(arguments, args, model_config)
    checkpoint = find_checkpoint(args)
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, **loading_options(args, model_config))
    renderer = Renderer(
        tokenizer,
        chat_template=read_template(arguments.chat_template),
        dialect=arguments.dialect or None,
        tool_prompt=arguments.tool_prompt,  # type: ignore[arg-type] # it says what is wrong
    )
    if renderer.remark:
        console.print(renderer.remark, soft_wrap=True)
    renderer.keep_template()
    rows = read_token_rows(arguments.dataset, renderer, args.max_length, console)
    peft_config = adapter_settings(name, model_config)
    if arguments.check_memory:
        longest = max(len(row.input_ids) for row in rows)
        warn_about_memory(console, args, model_config, peft_config, longest, samples=False)
    with run_folder(args, checkpoint, overwrite=arguments.overwrite_output_dir) as folder:
        shown = ProgressCallback(console)
        with rejections("TRL"):
            trainer = DemonstrationTrainer(
                model=load_for_training(name, args, model_config),
                args=args,
                train_dataset=datasets.Dataset.from_list(
                    [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
                ),
                processing_class=tokenizer,
                peft_config=peft_config,
                callbacks=[MetricsCallback(folder), StampCallback(), shown],
            )
        trainer.model_name, trainer.sources = name, dict.fromkeys(arguments.dataset, "demonstrations")
        is_main = begin_run(trainer, folder, checkpoint, console, arguments, args, model_config)
        before = trainer.state.global_step
        with shown.steps(is_main=is_main):
            start_training(trainer, checkpoint, lambda: trainer.state.global_step > before)
        save_run(trainer, folder)
    if is_main:
        console.print(f"run folder: {folder} (metrics.jsonl, model/)", soft_wrap=True)
    return trainer


def read_token_rows(sources: list[str], renderer: Renderer, max_length: int | None, console: Console) -> list[TokenRow]:
    """Read all demonstrations. Those that are too long are left out: truncated, they would teach to stop anywhere.

    Raises:
        TaskError: A file or a row is broken.
        ConfigError: All demonstrations are too long.
    """
    rows = [
        token_row(row, renderer, place, filled=is_arrow(source))
        for source in sources
        for place, row in read_rows(source)
    ]
    kept = [row for row in rows if max_length is None or len(row.input_ids) <= max_length]
    longest = max((len(row.input_ids) for row in rows), default=0)
    if not kept:
        raise ConfigError(f"none of {len(rows)} demonstrations fits; the longest has {longest} tokens (--max_length)")
    learnt = sum(label >= 0 for row in kept for label in row.labels)
    console.print(
        f"{len(kept)} demonstrations, {sum(row.is_sampled for row in kept)} as sampled, the others rendered; the loss "
        f"covers {learnt} of {sum(len(row.input_ids) for row in kept)} tokens",
        soft_wrap=True,
    )
    if len(kept) < len(rows):
        console.print(
            f"left out {len(rows) - len(kept)} demonstrations longer than --max_length {max_length} (the longest has "
            f"{longest} tokens)",
            style="yellow",
            soft_wrap=True,
        )
    return kept
