"""The one place that opens policies by their settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from toolrl.errors import ConfigError
from toolrl.policy.completions import RETRY_POLICY, Endpoint, default_base_url
from toolrl.policy.openai import OpenAIPolicy
from toolrl.policy.settings import CHAT_API, PolicySettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from toolrl.chat import Renderer
    from toolrl.policy.transformers import TransformersPolicy
    from toolrl.policy.vllm.policy import VLLMPolicy
    from toolrl.policy.vllm.server import VLLMServerPolicy


def open_policy(
    settings: PolicySettings, renderer: Renderer | None = None, *, model: PreTrainedModel | None = None
) -> OpenAIPolicy | TransformersPolicy | VLLMPolicy | VLLMServerPolicy:
    """Open the policy that the settings describe.

    Args:
        settings: Which one.
        renderer: Of the model; it knows the tokens that end a turn. Chat APIs need none.
        model: What sampler "transformers" samples with, if it is already loaded.

    Raises:
        ConfigError: The model, the key or a server is refused, or a policy that samples tokens has no renderer.
        MissingExtra: The sampler is "vllm", which is not installed.
    """
    if settings.is_chat:
        endpoint = Endpoint(
            settings.model.removeprefix(CHAT_API),
            settings.base_url or default_base_url(),
            retry_policy=dataclasses.replace(RETRY_POLICY, max_concurrent=settings.max_concurrent),
            prices=settings.prices,
        )
        return OpenAIPolicy(endpoint, request=settings.request)
    if renderer is None:
        raise ConfigError(f"the model {settings.model!r} samples tokens; pass its renderer")
    stops = renderer.stop_token_ids
    if settings.sampler == "transformers":
        from toolrl.policy.models import load_for_generation
        from toolrl.policy.transformers import TransformersPolicy

        if model is None:
            model = load_for_generation(settings.model, settings.device)
        return TransformersPolicy(model, stop_token_ids=stops, max_sequences=settings.sequences, seed=settings.seed)
    if settings.sampler == "vllm":
        from toolrl.policy.models import locate
        from toolrl.policy.vllm.policy import VLLMPolicy

        return VLLMPolicy(
            locate(settings.model),
            stop_token_ids=stops,
            transfer=settings.transfer or "file",
            sleep=settings.sleep,
            seed=settings.seed or 0,
            engine=settings.engine,
        )
    from toolrl.policy.vllm.server import VLLMServerPolicy

    return VLLMServerPolicy(settings.urls, stop_token_ids=stops, tokenizer=renderer.tokenizer)
