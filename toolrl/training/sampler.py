"""What generates while TRL trains: the trained model itself, a vLLM engine, vLLM servers, or what TRL has set up."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.errors import ConfigError
from toolrl.policy import Policy, PolicySettings, TransformersPolicy, VLLMPolicy, VLLMServerPolicy, open_policy
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.policy.vllm.policy import ColocatedVLLMPolicy

with warnings.catch_warnings():
    # TRL 1.16 names 0.31 as the newest vLLM that it knows; what is used of it here is tested with 0.32.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")
    from trl.generation.vllm_generation import VLLMGeneration


class TrainerWeights(VLLMGeneration):
    """TRL's way to all weights of a model, under the names of its checkpoint, whatever splits, wraps or adapts it.

    It is a method of the class that holds TRL's own engine, which is not made here.
    """

    def __init__(self, trainer: GRPOTrainer):
        assert trainer.model is not None
        self.model = trainer.model  # type: ignore[assignment] # TRL itself passes it so
        self.accelerator = trainer.accelerator
        self._dist = trainer._dist

    def __call__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give them one by one; a collective of all processes."""
        return self._iter_named_params()


class CopyPolicy(TransformersPolicy):
    """Samples with a copy of the trained model, in the type that its layers compute in while it is trained.

    Under `bf16` or `fp16` the layers of float32 weights compute in 16 bits: a cache of keys and values would have to be
    of both types, and each pass would convert all weights again.
    """

    def __init__(self, model: PreTrainedModel, weights: TrainerWeights, dtype: torch.dtype, **options: Any):
        """Copy `model`.

        Args:
            model: What is trained.
            weights: Its weights as they are.
            dtype: Of the copy.
            options: Of `TransformersPolicy`.
        """
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
        """Copy the weights as they are now."""
        super().weights_changed()
        self._copy()


def open_sampler(
    settings: PolicySettings, trainer: GRPOTrainer, model: PreTrainedModel, renderer: Renderer, args: GRPOConfig
) -> Policy:
    """Open the sampler of a run, with `trainer` as the source of its weights.

    Args:
        settings: Which one.
        trainer: Its model is what is trained.
        model: What generates if the sampler is "transformers".
        renderer: Of the run.
        args: TRL's `vllm_...` settings apply to an engine too.

    Raises:
        ConfigError: Settings contradict each other, or the engine's context is too short.
    """
    if args.use_vllm:
        return _trls_own(settings, trainer, renderer, args)
    rank = trainer.accelerator.process_index
    settings = replace(settings, model=str(model.name_or_path), seed=args.seed + rank)
    if settings.sampler == "transformers":
        computing = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
        # An adapter's own small numbers would be rounded away in a copy; beside it, only its wrapping is converted.
        if computing != model.dtype and not hasattr(trainer.model, "peft_config"):
            return CopyPolicy(
                model,
                TrainerWeights(trainer),
                computing,
                stop_token_ids=renderer.stop_token_ids,
                max_sequences=settings.sequences,
                seed=settings.seed,
            )
        if trainer.is_fsdp_enabled or _splits_weights(trainer):
            raise ConfigError("split weights (FSDP, DeepSpeed's ZeRO-3) cannot generate; pass --sampler vllm")
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
        check_context(policy.max_model_len, args)
        if isinstance(policy, VLLMPolicy):
            policy.connect(TrainerWeights(trainer))
        else:
            policy.connect(TrainerWeights(trainer), settings.transfer or ("nccl" if on_gpu else "file"), rank=rank)
    except BaseException:
        policy.close()
        raise
    # From here on TRL corrects for a sampler that is not quite the trainer. Nothing is left for it to synchronise.
    trainer.use_vllm = True
    trainer.vllm_generation = _Synchronised()  # type: ignore[assignment]
    trainer._last_loaded_step = -1
    return policy


def update(policy: Policy, trainer: GRPOTrainer) -> None:
    """Have the sampler go on with the trainer's weights as they are now."""
    if isinstance(policy, EnginePolicy) and policy.connected:
        policy.update_weights()
        return
    args: Any = trainer.args
    if args.use_vllm and trainer._last_loaded_step != trainer.state.global_step:
        trainer.vllm_generation.sync_weights()
        trainer._last_loaded_step = trainer.state.global_step
    if isinstance(policy, (EnginePolicy, TransformersPolicy)):
        policy.weights_changed()


def check_context(max_model_len: int, args: GRPOConfig) -> None:
    """Raises ConfigError: An episode does not fit into the engine's context."""
    if int(args.max_completion_length or 0) >= max_model_len:
        raise ConfigError(
            f"max_completion_length={args.max_completion_length} and a prompt do not fit into vLLM's context of "
            f"{max_model_len} tokens; shorten episodes, or set vllm_max_model_length if the model takes more"
        )


def _engine_settings(args: GRPOConfig, on_gpu: bool) -> dict[str, Any]:
    """TRL's settings of an engine, by vLLM's names, where they were given or have a default."""
    found: dict[str, Any] = {"max_model_len": args.vllm_max_model_length, "model_impl": args.vllm_model_impl}
    if on_gpu:
        found["gpu_memory_utilization"] = args.vllm_gpu_memory_utilization
        found["tensor_parallel_size"] = args.vllm_tensor_parallel_size
    return {name: value for name, value in found.items() if value is not None}


def _trls_own(settings: PolicySettings, trainer: GRPOTrainer, renderer: Renderer, args: GRPOConfig) -> Policy:
    """Sample from what TRL has set up for `use_vllm`; it sends the weights itself.

    Raises:
        ConfigError: Settings contradict each other.
    """
    if settings.sampler != "transformers":
        raise ConfigError(f"use_vllm and sampler={settings.sampler!r} are two samplers; choose one")
    policy: EnginePolicy
    if args.vllm_mode == "server":
        url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
        policy = VLLMServerPolicy(url, stop_token_ids=renderer.stop_token_ids, tokenizer=renderer.tokenizer)
    elif args.vllm_tensor_parallel_size > 1 or args.vllm_enable_sleep_mode:
        raise ConfigError(
            "with use_vllm and colocate, every process drives an engine of its own that stays awake: "
            f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size}, "
            f"vllm_enable_sleep_mode={args.vllm_enable_sleep_mode}; take sampler 'vllm' in place of use_vllm for either"
        )
    else:
        policy = ColocatedVLLMPolicy(trainer.vllm_generation.llm, stop_token_ids=renderer.stop_token_ids)
    check_context(policy.max_model_len, args)
    return policy


def _splits_weights(trainer: GRPOTrainer) -> bool:
    plugin = trainer.args.deepspeed_plugin
    return plugin is not None and plugin.zero_stage == 3


class _Synchronised:
    """Stands where TRL looks for an engine to update: `GRPORun` has done it."""

    def sync_weights(self) -> None:
        """Nothing left to do."""
