"""Which policy plays, as one flat record; `toolrl.policy.factory.open_policy` opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl.errors import ConfigError
from toolrl.policy.completions import Prices

if TYPE_CHECKING:
    from toolrl.policy.vllm.weights_sender import Transfer

TINY_PATH = Path(__file__).parent.parent / "tiny" / "weights"
CHAT_API = "openai:"  # prefix of models behind a chat-completions API


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Which policy, and how it is set up.

    Attributes:
        model: "tiny", a folder, a hub id, or "openai:NAME" for a model behind a chat API.
        sampler: "transformers", "vllm" (an engine in processes of its own), or the addresses of vLLM servers, separated
            by commas.
        device: "cpu", "cuda" ...; by default a GPU if there is one. For sampler "transformers".
        seed: Seeds sampling.
        sequences: Sequences that transformers generates together; None for the device's default.
        transfer: How a trainer's weights travel to vLLM; by default "file" without a GPU, else "ipc" to an engine and
            "nccl" to servers.
        engine: Further arguments of vLLM's `AsyncEngineArgs`. For sampler "vllm".
        sleep: Release the GPU's memory between rollouts. For sampler "vllm".
        base_url: Of "openai:NAME", up to and including `/v1`; by default OPENAI_BASE_URL, else OpenAI's.
        request: Further fields of its requests.
        prices: Of its tokens.
        max_concurrent: Requests in flight to it.
    """

    model: str = "tiny"
    sampler: str = "transformers"
    device: str = ""
    seed: int | None = None
    sequences: int | None = None
    transfer: Transfer | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    sleep: bool = False
    base_url: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices | None = None
    max_concurrent: int = 16

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: The sampler or the transfer is unknown, or a setting is for another kind of policy.
        """
        if self.sampler not in ("transformers", "vllm") and not self.urls:
            raise ConfigError(
                f"sampler must be 'transformers', 'vllm' or addresses of vLLM servers, got {self.sampler!r}"
            )
        if self.transfer not in (None, "file", "ipc", "nccl"):
            raise ConfigError(f"weight_transfer must be 'file', 'ipc' or 'nccl', got {self.transfer!r}")
        if self.sampler == "vllm" and self.transfer == "nccl":
            raise ConfigError("weights travel to an engine of one's own by 'file' or 'ipc'; 'nccl' is for servers")
        if self.engine and self.sampler != "vllm":
            raise ConfigError(f"engine_settings are for sampler 'vllm', not for {self.sampler!r}")
        if self.device and self.sampler != "transformers":
            raise ConfigError(f"device {self.device!r} is for sampler 'transformers'; vLLM has its own")
        if not self.is_chat and (self.base_url or self.request or self.prices):
            raise ConfigError(f"base_url, request and prices are for models named 'openai:NAME', got {self.model!r}")

    @property
    def is_chat(self) -> bool:
        """Whether the model is behind a chat API: it returns messages without tokens."""
        return self.model.startswith(CHAT_API)

    @property
    def urls(self) -> list[str]:
        """Addresses of servers, if the sampler is those."""
        urls = [url.strip() for url in self.sampler.split(",")]
        return urls if all(url.startswith(("http://", "https://")) for url in urls) else []
