"""What runs on a cluster: workers, engines and services, and what each takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolrl.errors import ConfigError

SANDBOX = "sandbox"  # the name of the service that offers sandboxes; others are retrievers
_SANDBOX_SETTINGS = ("max_sandboxes", "packages")
_RETRIEVER_SETTINGS = ("retriever", "model", "store")


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A service of the cluster.

    Attributes:
        name: "sandbox", or a name of one's own for a retriever.
        count: Servers.
        resources: What each takes.
        settings: "max_sandboxes" and "packages" of a sandbox server; "retriever", "model" and "store" of a retriever,
            see `toolrl.search.open_retriever`.
    """

    name: str
    count: int = 1
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: One is wrong.
        """
        if not self.name.isidentifier():
            raise ConfigError(f"a service's name must be a plain word, got {self.name!r}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ConfigError(f"services: count of {self.name!r} must be 1 or more, got {self.count!r}")
        check_resources(f"services: resources of {self.name!r}", self.resources)
        known = _SANDBOX_SETTINGS if self.name == SANDBOX else _RETRIEVER_SETTINGS
        if unknown := [name for name in self.settings if name not in known]:
            raise ConfigError(f"services: {self.name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
        if self.name != SANDBOX and not isinstance(self.settings.get("retriever"), str):
            raise ConfigError(f'services: {self.name!r} needs a retriever, such as {{"retriever": "bm25:python-docs"}}')


def parse_services(given: Any) -> tuple[ServiceSettings, ...]:
    """Services as they are written: `{"sandbox": {"count": 2}, "wiki": {"retriever": "bm25:wiki.jsonl"}}`.

    Raises:
        ConfigError: It is not such an object, or a setting is wrong.
    """
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping) for one in given.values()):
        raise ConfigError(f'services must be like {{"sandbox": {{"count": 2}}}}, got {given!r:.80}')
    found = []
    for name, one in given.items():
        own = {key: one[key] for key in ("count", "resources") if key in one}
        settings = {key: value for key, value in one.items() if key not in own}
        found.append(ServiceSettings(name, **own, settings=settings))
    return tuple(found)


def check_resources(what: str, resources: Any) -> None:
    """Reject what is not amounts of resources by name.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(resources, Mapping):
        raise ConfigError(f'{what} must be like {{"CPU": 1, "GPU": 1}}, got {resources!r:.80}')
    for name, amount in resources.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < math.inf:
            raise ConfigError(f"{what}: {name!r} must be a number from 0, got {amount!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many workers there are, where, what each takes, and what else runs beside them.

    Attributes:
        workers: Rollout workers. Those for which there is no room yet start when a node joins.
        address: Of the cluster: "auto" for one that runs here, HOST:PORT, or "local" to start one on this machine.
        resources: What each worker takes, by Ray's names: `{"CPU": 1, "GPU": 0, "sandbox": 1}`.
        concurrency: Episodes in flight on each worker.
        engines: Engines that sample for all workers; 0 for a sampler in each worker.
        engine_resources: What each engine takes.
        services: What the cluster offers to tools; see `ServiceSettings`.
        silence_seconds: An actor that does not answer for this long is replaced.
        attempts: Workers that may be lost under an episode before it counts as a fault; and in one place without ever
            starting, before the run ends.
    """

    workers: int
    address: str = "local"
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    concurrency: int = 64
    engines: int = 0
    engine_resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    services: Sequence[ServiceSettings] = ()
    silence_seconds: float = 60.0
    attempts: int = 5

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: One is out of range.
        """
        for name in ("workers", "concurrency", "silence_seconds", "attempts"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.engines < 0:
            raise ConfigError(f"rollout_engines must be 0 or more, got {self.engines!r}")
        check_resources("worker_resources", self.resources)
        check_resources("engine_resources", self.engine_resources)

    @classmethod
    def of(cls, *, services: Any, **settings: Any) -> PoolSettings:
        """The same, with services as they are written in JSON.

        Raises:
            ConfigError: A setting is wrong.
        """
        return cls(services=parse_services(services), **settings)

    def taken(self) -> Iterator[tuple[str, int, Mapping[str, float]]]:
        """What runs on the cluster: its name, how many of it, and what each takes."""
        yield "worker", self.workers, self.resources
        if self.engines:
            yield "engine", self.engines, self.engine_resources
        for service in self.services:
            yield f"{service.name} service", service.count, service.resources
