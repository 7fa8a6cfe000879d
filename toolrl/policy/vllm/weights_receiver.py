"""The receiving side of a weight update by file, in vLLM's worker processes.

vLLM moves weights between trainers and engines through named backends: its own "nccl" and "ipc" need GPUs. This module
adds "file": a safetensors file that both sides can read. vLLM calls `register` in each of its processes, through the
entry point in pyproject.toml, so a server only needs toolrl installed next to vLLM.

Source: vllm/distributed/weight_transfer (0.32).
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from dataclasses import dataclass

from safetensors.torch import load_file
from torch import nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from toolrl.policy.vllm.policy import OWNER

# How long an engine may take to shut down cleanly once its owner is gone.
ENDING_SECONDS = 5.0


def register() -> None:
    """Register the backend "file" with vLLM, and end this process with its owner. Safe to call twice."""
    owner = os.environ.get(OWNER)
    if owner and int(owner) != os.getpid() and not any(thread.name == OWNER for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(int(owner),), name=OWNER, daemon=True).start()
    if "file" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("file", FileWeightTransfer)


@dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """An update.

    Attributes:
        path: A safetensors file with all weights, named as in the model's checkpoint.
    """

    path: str


class FileWeightTransfer(WeightTransferEngine[FileInit, FileUpdate]):
    """Loads weights from a file into the running model."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Prepare the layers to load checkpoint weights again."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load the file."""
        self.model.load_weights(load_file(update_info.path).items())

    def update_weights(self, update_info: dict[str, str]) -> None:
        """Load the file. Unlike vLLM's own backends it need not wait for an accelerator: the copy is done on return."""
        self.receive_weights(self.parse_update_info(update_info))

    def finish_weight_update(self) -> None:
        """Convert the layers back to the form in which they compute."""
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            _pack_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to release."""


def _end_with(owner: int) -> None:
    """End this process when another one ends. An engine would otherwise outlive a killed trainer."""
    try:
        handle = os.pidfd_open(owner)
        select.select([handle], [], [])
    except ProcessLookupError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING_SECONDS)
    os._exit(1)


def _pack_heads(model: nn.Module) -> None:
    """Pack output layers again from their weights.

    On a CPU a layer multiplies with a packed copy of its weights. A reload does not refresh the copy of a head that is
    tied to the embedding: it only copies the embedding's values into place.
    """
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layer.quant_method.process_weights_after_loading(layer)
