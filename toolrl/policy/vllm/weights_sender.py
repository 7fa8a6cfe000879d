"""The sending side of weight updates: from a trainer to vLLM engines.

Both sides follow vLLM's own protocol (vllm/distributed/weight_transfer): `start_weight_update`, `update_weights`,
`finish_weight_update`, through a `WeightClient`. The backend decides how the weights travel:

- "file": written to a file that the engine reads. Needs no GPU. The file is in memory if the machine has /dev/shm.
- "ipc" (vLLM's own): the engine maps the trainer's GPU memory. Engine and trainer share a GPU.
- "nccl" (vLLM's own): broadcast to the engine's GPUs, on this machine or others.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from toolrl.errors import ConfigError, PolicyFault
from toolrl.support.leftovers import make_folder

Transfer = Literal["file", "ipc", "nccl"]
# Yields all weights one by one, under the names of the checkpoint. Can be called repeatedly.
NamedWeights = Callable[[], Iterator[tuple[str, torch.Tensor]]]


class WeightClient(Protocol):
    """The engine's side of a weight update: vLLM's `VLLMWeightSyncClient`."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect both sides."""
        ...

    def start_weight_update(self) -> None:
        """Begin an update; no request may be in flight."""
        ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the weights, or a part of them."""
        ...

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End an update."""
        ...


class WeightSender(Protocol):
    """Sends the weights of a trainer to the engines behind a `WeightClient`."""

    def send(self, version: int) -> None:
        """Send the current weights. Called in each of the trainer's processes."""
        ...

    def send_again(self, client: WeightClient) -> bool:
        """Send a restarted engine the last weights that were sent; False if they are no longer available."""
        ...

    def close(self) -> None:
        """Release files and connections. Safe to call twice."""
        ...


def open_sender(
    transfer: Transfer, client: WeightClient, weights: NamedWeights, *, rank: int = 0, engine_gpus: int = 1
) -> WeightSender:
    """Connect a trainer with engines.

    Args:
        transfer: How the weights travel.
        client: The engines.
        weights: What to send. With sharded models, iterating over it is a collective.
        rank: Of this process among those that share the engines; rank 0 sends. 0 if each has its own engine.
        engine_gpus: GPUs of all engines together; only "nccl" needs it.

    Raises:
        ConfigError: The transfer is unknown.
    """
    if transfer == "file":
        return FileSender(client, weights, rank=rank)
    if transfer in ("ipc", "nccl"):
        return VLLMSender(transfer, client, weights, rank, engine_gpus)
    raise ConfigError(f"weights travel by 'file', 'ipc' or 'nccl', not by {transfer!r}")


class FileSender:
    """Writes the weights to a file that the engine loads. A file is kept until the next one is sent."""

    def __init__(self, client: WeightClient, weights: NamedWeights, *, folder: str | None = None, rank: int = 0):
        """Prepare. Files go into a new folder inside `folder`; by default in memory, if two of them fit."""
        self._client = client
        self._weights = weights
        self._rank = rank
        self._parent = folder
        self._folder: Path | None = None
        self._sent: tuple[Path, int] | None = None

    def send(self, version: int) -> None:
        """Write a file and have the engine load it.

        Raises:
            PolicyFault: The file cannot be written, or the engine is gone.
        """
        # The format does not allow tensors to share storage: views are copied.
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in self._weights()}
        if self._rank:
            return
        if self._folder is None:
            self._folder = Path(make_folder("weights", self._parent or folder_for(tensors)))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{version}.safetensors"
        try:
            save_file(tensors, path)
        except (OSError, SafetensorError) as error:
            raise PolicyFault(f"the weights cannot be written to {self._folder}: {error}") from error
        earlier, self._sent = self._sent, (path, version)
        self.send_again(self._client)
        if earlier is not None and earlier[0] != path:
            earlier[0].unlink(missing_ok=True)

    def send_again(self, client: WeightClient) -> bool:
        """See `WeightSender`."""
        if self._sent is None:
            return False
        path, version = self._sent
        client.start_weight_update()
        client.update_weights({"path": str(path)})
        client.finish_weight_update(str(version))
        return True

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._remove()


def folder_for(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The folder in memory, if two files fit (containers have little there); None for the default folder."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    memory = "/dev/shm"
    fits = os.path.isdir(memory) and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2.1 * size
    return memory if fits else None


class VLLMSender:
    """Sends through one of vLLM's own backends, from GPU to GPU."""

    def __init__(
        self, transfer: Literal["ipc", "nccl"], client: WeightClient, weights: NamedWeights, rank: int, engine_gpus: int
    ):
        """Connect both sides."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port

        class Source(WeightSource):
            @cache  # noqa: B019 - one source per run; names and shapes are fixed, and reading them gathers all weights
            def metadata(self) -> list[ParamMeta]:
                return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights()]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                return weights()

        self._client = _Versioned(client)
        if transfer == "ipc":
            init: Any = IPCTrainerInitInfo(packed=True, rank=rank)
        else:
            init = NCCLTrainerInitInfo(
                master_address=get_ip(), master_port=get_open_port(), world_size=engine_gpus + 1, rank=rank
            )
        self._engine = WeightTransferTrainerFactory.trainer_init(init, client=self._client, source=Source())

    def send(self, version: int) -> None:
        """Send all weights."""
        self._client.version = str(version)
        self._engine.send_weights()

    def send_again(self, client: WeightClient) -> bool:
        """Do nothing: no copy is kept, and a group that lost a member cannot be joined again."""
        return False

    def close(self) -> None:
        """Leave the group."""
        self._engine.shutdown()


class _Versioned:
    """A client that adds the version, which vLLM's backends leave out."""

    def __init__(self, client: WeightClient):
        self.init_weight_transfer_engine = client.init_weight_transfer_engine
        self.start_weight_update = client.start_weight_update
        self.update_weights = client.update_weights
        self._finish = client.finish_weight_update
        self.version: str | None = None

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._finish(weight_version or self.version)
