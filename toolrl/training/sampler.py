"""What generates while TRL trains: the trained model itself, a vLLM engine, vLLM servers, or what TRL has set up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOConfig  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.distributed import Playing, PoolSettings, RolloutPool
from toolrl.errors import ConfigError
from toolrl.policy import Policy, PolicySettings, TransformersPolicy, VLLMPolicy, VLLMServerPolicy, open_policy
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.policy.vllm.policy import ColocatedVLLMPolicy
from toolrl.training.trainer import SampledTokensTrainer, TrainerWeights


class CopyPolicy(TransformersPolicy):
    """Samples with a 16-bit copy of the trained model.

    Under `bf16` or `fp16` the layers of float32 weights compute in 16 bits: a cache of keys and values would have both
    types, and each pass would convert all weights again.
    """

    def __init__(self, model: PreTrainedModel, weights: TrainerWeights, dtype: torch.dtype, **options: Any):
        """Copy `model`, whose current weights `weights` yields."""
        self._weights = weights
        with torch.device(model.device):
            copy = type(model)._from_config(model.config, dtype=dtype)
        if model.generation_config is not None:
            copy.generation_config = model.generation_config
        super().__init__(copy.eval().requires_grad_(False), **options)
        self._copy()

    @torch.no_grad()
    def _copy(self) -> None:
        for name, weight in self._weights():
            self.model.get_parameter(name).copy_(weight)

    def weights_changed(self) -> None:
        """Copy the current weights."""
        super().weights_changed()
        self._copy()


def open_sampler(
    settings: PolicySettings, trainer: SampledTokensTrainer, model: PreTrainedModel, renderer: Renderer
) -> Policy:
    """Open the sampler of a run, with `trainer` as the source of its weights.

    Args:
        settings: Which sampler.
        trainer: Trains the model; its `vllm_...` settings configure an engine.
        model: Generates if the sampler is "transformers".
        renderer: Of the run.

    Raises:
        ConfigError: Settings contradict each other, or the engine's context is too short.
    """
    args: Any = trainer.args
    if args.use_vllm:
        return _trl_policy(settings, trainer, renderer)
    rank = trainer.accelerator.process_index
    settings = replace(settings, model=str(model.name_or_path), seed=args.seed + rank)
    if settings.sampler == "transformers":
        computing = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
        # A copy would round an adapter's small numbers away. Without one, only the model around it is converted.
        if computing != model.dtype and not hasattr(trainer.model, "peft_config"):
            return CopyPolicy(
                model,
                TrainerWeights(trainer),
                computing,
                stop_token_ids=renderer.stop_token_ids,
                max_sequences=settings.sequences,
                seed=settings.seed,
            )
        if trainer.shards_weights:
            raise ConfigError("sharded weights (FSDP, DeepSpeed's ZeRO-3) cannot generate; pass --sampler vllm")
        policy = open_policy(settings, renderer, model=model)
        assert isinstance(policy, TransformersPolicy)
        return policy
    on_gpu = trainer.accelerator.device.type == "cuda"
    if settings.sampler == "vllm":
        settings = replace(
            settings,
            transfer=settings.transfer or ("ipc" if on_gpu else "file"),
            sleep=args.vllm_enable_sleep_mode,
            engine={**_engine_settings(args, on_gpu), **settings.engine},
        )
    policy = open_policy(settings, renderer)
    assert isinstance(policy, VLLMPolicy | VLLMServerPolicy)
    try:
        _check_context(policy.max_model_len, args)
        if isinstance(policy, VLLMPolicy):
            policy.connect(TrainerWeights(trainer))
        else:
            policy.connect(TrainerWeights(trainer), settings.transfer or ("nccl" if on_gpu else "file"), rank=rank)
    except BaseException:
        policy.close()
        raise
    trainer.correct_for_sampler()
    return policy


def open_workers(
    settings: PolicySettings,
    workers: PoolSettings,
    trainer: SampledTokensTrainer,
    model: PreTrainedModel,
    renderer: Renderer,
    playing: dict[str, Any],
) -> RolloutPool:
    """Open the workers of a run, each with a sampler of its own.

    Args:
        settings: Of the samplers.
        workers: How many, and where.
        trainer: Trains `model`.
        model: Names what the workers load; their weights come from the trainer.
        renderer: Of the run.
        playing: Further arguments of `Playing`.

    Raises:
        ConfigError: Settings contradict each other, or the cluster has no room for such workers.
    """
    args: Any = trainer.args
    if args.use_vllm or settings.urls:
        raise ConfigError("each rollout worker has a sampler of its own; pass --sampler transformers or vllm")
    settings = replace(
        settings, model=str(model.name_or_path), seed=args.seed + 1000 * trainer.accelerator.process_index
    )
    if settings.sampler == "vllm":
        settings = replace(settings, transfer=settings.transfer or "file")
    pool = RolloutPool(Playing(settings, renderer.parts(), **playing), workers)
    trainer.correct_for_sampler()
    return pool


def sync_policy(policy: Policy | RolloutPool, trainer: SampledTokensTrainer) -> None:
    """Have the sampler use the trainer's current weights."""
    if isinstance(policy, RolloutPool):
        policy.update_weights(TrainerWeights(trainer)())
        return
    if isinstance(policy, EnginePolicy) and policy.connected:
        policy.update_weights()
        return
    trainer.sync_vllm()
    if isinstance(policy, (EnginePolicy, TransformersPolicy)):
        policy.weights_changed()


def _check_context(max_model_len: int, args: GRPOConfig) -> None:
    if int(args.max_completion_length or 0) >= max_model_len:
        raise ConfigError(
            f"max_completion_length={args.max_completion_length} and a prompt do not fit into vLLM's context of "
            f"{max_model_len} tokens; shorten episodes, or raise vllm_max_model_length if the model allows it"
        )


def _engine_settings(args: GRPOConfig, on_gpu: bool) -> dict[str, Any]:
    """TRL's settings of an engine under vLLM's names, without those that are None."""
    found: dict[str, Any] = {"max_model_len": args.vllm_max_model_length, "model_impl": args.vllm_model_impl}
    if on_gpu:
        found["gpu_memory_utilization"] = args.vllm_gpu_memory_utilization
        found["tensor_parallel_size"] = args.vllm_tensor_parallel_size
    return {name: value for name, value in found.items() if value is not None}


def _trl_policy(settings: PolicySettings, trainer: SampledTokensTrainer, renderer: Renderer) -> Policy:
    """Sample with the engine or server that TRL has set up for `use_vllm`, and that it sends weights to."""
    if settings.sampler != "transformers":
        raise ConfigError(f"use_vllm and sampler={settings.sampler!r} are two samplers; choose one")
    policy: EnginePolicy
    args: Any = trainer.args
    if args.vllm_mode == "server":
        url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
        policy = VLLMServerPolicy(url, stop_token_ids=renderer.stop_token_ids, tokenizer=renderer.tokenizer)
    elif args.vllm_tensor_parallel_size > 1 or args.vllm_enable_sleep_mode:
        raise ConfigError(
            "with use_vllm and vllm_mode=colocate, each process has its own engine, which never sleeps; "
            f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} and "
            f"vllm_enable_sleep_mode={args.vllm_enable_sleep_mode} need --sampler vllm instead of --use_vllm"
        )
    else:
        policy = ColocatedVLLMPolicy(trainer.vllm_engine, stop_token_ids=renderer.stop_token_ids)
    _check_context(policy.max_model_len, args)
    return policy
