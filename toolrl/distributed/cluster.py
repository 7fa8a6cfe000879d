"""The connection to a Ray cluster: all contact with Ray that is not an actor's call."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from toolrl.distributed.rates import RateServer
from toolrl.distributed.settings import PoolSettings
from toolrl.errors import ConfigError, InfrastructureError, MissingExtra
from toolrl.support.shared_rate import RATES_VARIABLE

# Settings and keys that tools and policies read from the environment.
_SENT = ("TOOLRL_", "OPENAI_", "E2B_", "HF_")
_KNOCK_SECONDS = 10.0
_CALLS = 10_000  # that a worker may have open


class WorkerLost(InfrastructureError):
    """Every worker that played an episode was lost, or an actor could not be kept alive."""


class Cluster:
    """A connection, as whoever made it."""

    def __init__(self, *, is_ours: bool):
        """Note whether Ray is to be shut down at the end."""
        self._is_ours = is_ours
        self._rates: RateServer | None = None
        self._groups: dict[str, Any] = {}

    def start(self, kind: type, arguments: Sequence[Any], resources: Mapping[str, float], *, group: str = "") -> Any:
        """Start an actor; it waits until a node has room.

        Args:
            kind: Its class.
            arguments: Of the class; variables of this environment are added.
            resources: What it takes.
            group: The placement group that reserves them, so that another actor of this group gets the same ones after
                this one; without a name, what it takes is free when it ends.
        """
        import ray

        options: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
        if group:
            options = {"scheduling_strategy": self._place_in(group, resources)}
        actor: Any = ray.remote(kind).options(
            num_cpus=resources.get("CPU", 1),
            num_gpus=resources.get("GPU", 0),
            resources={name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")},
            max_concurrency=_CALLS,
            **options,
        )
        variables = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        if self._rates is not None:
            variables[RATES_VARIABLE] = self._rates.address
        return actor.remote(*arguments, variables)

    def _place_in(self, group: str, resources: Mapping[str, float]) -> Any:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if group not in self._groups:
            self._groups[group] = placement_group([{"CPU": 1, **resources}], strategy="STRICT_PACK")
        return PlacementGroupSchedulingStrategy(self._groups[group], 0, placement_group_capture_child_tasks=True)

    def kill(self, actor: Any) -> None:
        """End an actor at once."""
        import ray

        try:
            ray.kill(actor)
        except Exception as error:  # noqa: BLE001 - it is gone, or the cluster is
            logging.getLogger(__name__).debug("an actor could not be killed: %s", error)

    def share_rates(self, rates: RateServer) -> None:
        """Have actors keep their rate limits together, over all nodes."""
        self._rates = rates

    def put(self, value: Any) -> Any:
        """Put a value into the object store, from which each node takes it once."""
        import ray

        return ray.put(value)

    def close(self) -> None:
        """Leave the cluster; one that was started for this process ends."""
        import ray

        if ray.is_initialized():
            from ray.util import remove_placement_group

            for group in self._groups.values():
                remove_placement_group(group)
            if self._is_ours:
                ray.shutdown()
        self._groups, self._is_ours = {}, False
        if self._rates is not None:
            self._rates.close()


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
    is_ours = not ray.is_initialized()
    if is_ours:
        quiet: dict[str, Any] = {
            "include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR,
        }  # fmt: skip
        if settings.address == "local":
            # Ray only counts what actors take; on one's own machine they all fit, but for its GPUs.
            counted: Counter[str] = Counter()
            for _, count, resources in settings.taken():
                counted.update({name: amount * count for name, amount in {"CPU": 1, **resources}.items()})
            counted.pop("GPU", None)
            cpus = math.ceil(max(counted.pop("CPU"), os.cpu_count() or 1))
            ray.init(address="local", num_cpus=cpus, resources=dict(counted), **quiet)
        else:
            try:
                _knock(settings.address)
                ray.init(address=settings.address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at {settings.address!r} ({str(error).splitlines()[0]}); start one with "
                    "'ray start --head', or leave the address out for one on this machine"
                ) from None
    cluster = Cluster(is_ours=is_ours)
    try:
        for name, _, resources in settings.taken():
            _check_room(name, resources, ray.nodes())
        if settings.address != "local":  # processes of one machine share rates anyway
            cluster.share_rates(RateServer(node_address()))
    except ConfigError:
        cluster.close()
        raise
    return cluster


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at HOST:PORT, where Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _check_room(what: str, resources: Mapping[str, float], nodes: list[dict[str, Any]]) -> None:
    """Reject what no node has, free or not."""
    has = [(node["NodeName"], node["Resources"]) for node in nodes if node["Alive"]]  # several may share a name
    for name, amount in resources.items():
        most = max((there.get(name, 0.0) for _, there in has), default=0.0)
        if amount > most:
            name_of_one = f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
            known = ", ".join(f"{node} {there.get(name, 0.0):g}" for node, there in has)
            raise ConfigError(
                f"{name_of_one} takes {amount:g} of {name!r}, which no node has: {known or 'there are no nodes'}"
            )


def node_address() -> str:
    """The address under which other nodes reach this one; that of this machine alone without Ray."""
    if not node_id():
        return "127.0.0.1"
    import ray.util

    return str(ray.util.get_node_ip_address())


def node_id() -> str:
    """The node that this process runs on; empty without Ray."""
    try:
        import ray
    except ImportError:
        return ""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


async def awaited(reference: Any) -> Any:
    """The answer to a call, as a coroutine, which `asyncio` can wait for with a limit."""
    return await reference


def give_up(reference: Any) -> None:
    """Cancel a call."""
    import ray

    with suppress(Exception):
        ray.cancel(reference)


def is_gone(error: BaseException) -> bool:
    """Whether an error means that the actor that was called, or its node, is gone."""
    if isinstance(error, WorkerLost) or _is_forgotten(error):
        return True
    import ray.exceptions

    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)


def _is_forgotten(error: BaseException) -> bool:
    """Whether Ray has forgotten the actor that is called, which it says by a plain exception."""
    return type(error) is Exception and "Can't find actor" in str(error)


def is_lost(error: BaseException) -> bool:
    """Whether an error means that a worker or its node is gone, and not that something is wrong with its work."""
    import ray.exceptions

    if isinstance(error, BaseExceptionGroup):
        return all(is_lost(one) for one in error.exceptions)
    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, (ray.exceptions.RayError, InfrastructureError))
    return isinstance(error, (ray.exceptions.RayError, InfrastructureError)) or _is_forgotten(error)
