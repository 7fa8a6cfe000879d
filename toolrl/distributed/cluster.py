"""The connection to a Ray cluster: all contact with Ray that is not an actor's call."""

from __future__ import annotations

import logging
import math
import os
import socket
from typing import Any

from toolrl.distributed.work import Playing, PoolSettings
from toolrl.errors import ConfigError, InfrastructureError, MissingExtra

# Settings and keys that tools and policies read from the environment.
_SENT = ("TOOLRL_", "OPENAI_", "E2B_", "HF_")
_KNOCK_SECONDS = 10.0
_CALLS = 10_000  # that a worker may have open


class Cluster:
    """A connection, as whoever made it."""

    def __init__(self, settings: PoolSettings, *, is_ours: bool):
        """Note whether Ray is to be shut down at the end."""
        self._settings, self._is_ours = settings, is_ours

    def start(self, kind: type, playing: Playing) -> Any:
        """Start an actor; it waits until a node has room."""
        import ray

        settings = self._settings
        actor: Any = ray.remote(kind).options(
            num_cpus=settings.resources.get("CPU", 1),
            num_gpus=settings.resources.get("GPU", 0),
            resources={name: amount for name, amount in settings.resources.items() if name not in ("CPU", "GPU")},
            max_concurrency=_CALLS,
            scheduling_strategy="SPREAD",
        )
        variables = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        return actor.remote(playing, settings.concurrency, variables)

    def kill(self, actor: Any) -> None:
        """End an actor at once."""
        import ray

        try:
            ray.kill(actor)
        except Exception as error:  # noqa: BLE001 - it is gone, or the cluster is
            logging.getLogger(__name__).debug("an actor could not be killed: %s", error)

    def put(self, value: Any) -> Any:
        """Put a value into the object store, from which each node takes it once."""
        import ray

        return ray.put(value)

    def close(self) -> None:
        """Leave the cluster; one that was started for this process ends."""
        import ray

        if self._is_ours and ray.is_initialized():
            ray.shutdown()
        self._is_ours = False


def connect(settings: PoolSettings) -> Cluster:
    """Join a cluster, or start one on this machine.

    Raises:
        ConfigError: No cluster answers, or no node has what a worker takes.
        MissingExtra: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    cluster = Cluster(settings, is_ours=not ray.is_initialized())
    if not ray.is_initialized():
        quiet: dict[str, Any] = {
            "include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR,
        }  # fmt: skip
        if settings.address == "local":
            # Ray only counts what workers take; on one's own machine they all fit, but for its GPUs.
            counted = {name: amount * settings.workers for name, amount in settings.resources.items() if name != "GPU"}
            cpus = math.ceil(max(counted.pop("CPU", settings.workers), os.cpu_count() or 1))
            ray.init(address="local", num_cpus=cpus, resources=counted, **quiet)
        else:
            try:
                _knock(settings.address)
                ray.init(address=settings.address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at {settings.address!r} ({str(error).splitlines()[0]}); start one with "
                    "'ray start --head', or leave the address out for one on this machine"
                ) from None
    try:
        _check_room(settings, ray.nodes())
    except ConfigError:
        cluster.close()
        raise
    return cluster


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at HOST:PORT, where Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _check_room(settings: PoolSettings, nodes: list[dict[str, Any]]) -> None:
    """Reject what no node has, free or not."""
    has = [(node["NodeName"], node["Resources"]) for node in nodes if node["Alive"]]  # several may share a name
    for name, amount in settings.resources.items():
        most = max((resources.get(name, 0.0) for _, resources in has), default=0.0)
        if amount > most:
            known = ", ".join(f"{node} {resources.get(name, 0.0):g}" for node, resources in has)
            raise ConfigError(
                f"a worker takes {amount:g} of {name!r}, which no node has: {known or 'there are no nodes'}"
            )


def is_lost(error: BaseException) -> bool:
    """Whether an error means that a worker or its node is gone, and not that something is wrong with its work."""
    import ray.exceptions

    if isinstance(error, BaseExceptionGroup):
        return all(is_lost(one) for one in error.exceptions)
    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, (ray.exceptions.RayError, InfrastructureError))
    return isinstance(error, (ray.exceptions.RayError, InfrastructureError))
