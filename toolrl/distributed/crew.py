"""Actors of one kind, kept alive: one that is lost, frozen or silent is replaced, in the same place."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from toolrl.distributed.cluster import Cluster, WorkerLost, awaited, is_lost
from toolrl.distributed.settings import PoolSettings
from toolrl.distributed.work import versions
from toolrl.errors import ConfigError, UserError

CLOSING_SECONDS = 20.0
_BACKOFF_SECONDS = 1.0  # before a lost actor is replaced; doubled up to a minute while none starts
_MOST_BACKOFF_SECONDS = 60.0


@dataclass(eq=False)
class Slot:
    """A place for an actor, which may be filled again and again.

    Attributes:
        number: Of the place.
        actor: Its handle.
        about: What it said about itself: node, process id ...
        ready: Whether it has started, and answers.
    """

    number: int
    actor: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = False


S = TypeVar("S", bound=Slot)


class Crew(ABC, Generic[S]):
    """Has an actor in each of its slots. All on one event loop.

    Attributes:
        name: What one of them is called in messages.
        slots: The places.
        losses: Actors that were lost, by node.
    """

    def __init__(
        self, name: str, slots: list[S], cluster: Cluster, settings: PoolSettings, fail: Callable[[BaseException], None]
    ):
        """Note where actors start; `start` starts them.

        Args:
            name: What one of them is called in messages.
            slots: The places.
            cluster: Where they start.
            settings: How long one may be silent, and how often one may fail to start.
            fail: Called with the error that ends the run: an actor has another version, or none ever starts.
        """
        self.name, self.slots = name, slots
        self.losses: Counter[str] = Counter()
        self._cluster, self._settings, self._fail = cluster, settings, fail
        self._keepers: list[asyncio.Task[None]] = []

    # ---- what kinds differ in

    @abstractmethod
    def _create(self, slot: S) -> Any:
        """Create the actor; it waits until a node has room."""

    @abstractmethod
    async def _welcome(self, slot: S) -> Mapping[str, Any]:
        """Start the actor, and return what it says about itself."""

    async def _joined(self, slot: S) -> None:
        """The slot is ready."""

    async def _left(self, slot: S, why: str) -> None:
        """The slot's actor was lost."""

    async def _work(self, slot: S) -> None:
        """Work with the actor while it lives; ends only with it."""
        await asyncio.Event().wait()

    # ---- life

    @property
    def ready(self) -> list[S]:
        """The slots whose actors have started, and answer."""
        return [slot for slot in self.slots if slot.ready]

    def start(self) -> None:
        """Start an actor in each slot; does nothing the second time."""
        if not self._keepers:
            self._keepers = [asyncio.ensure_future(self._keep(slot)) for slot in self.slots]

    async def close(self) -> None:
        """Have all actors close what they opened, and end them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def tell(self, call: Callable[[S], Awaitable[Any]]) -> None:
        """Call all actors that are ready; one that is lost meanwhile is replaced by its keeper.

        Raises:
            UserError: The call was refused.
        """

        async def one(slot: S) -> None:
            try:
                await call(slot)
            except Exception as error:  # noqa: BLE001 - whatever Ray raises
                if not is_lost(error):
                    raise cause_of(error) from None
                self._cluster.kill(slot.actor)  # its keeper notices

        await asyncio.gather(*(one(slot) for slot in self.ready))

    async def _keep(self, slot: S) -> None:
        """Have an actor in the slot, and another when it is lost."""
        backoff, failures = _BACKOFF_SECONDS, 0
        while True:
            slot.actor, slot.about = self._create(slot), {}
            try:
                about = await self._welcome(slot)
                _check_versions(about)
                slot.about, slot.ready = about, True
                backoff, failures = _BACKOFF_SECONDS, 0
                await self._joined(slot)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(slot))
                    group.create_task(self._work(slot))
            except asyncio.CancelledError:
                await self._end(slot)
                raise
            except Exception as error:  # noqa: BLE001 - whatever Ray raises
                if not is_lost(error):
                    self._fail(cause_of(error))
                    await self._end(slot)
                    return
                node = slot.about.get("node", "")
                self.losses[node or "(not started)"] += 1
                why = f"on {node or 'a node'}: {_first_line(error)}"
            failures += not slot.ready
            slot.ready = False
            self._cluster.kill(slot.actor)
            await self._left(slot, why)
            if failures >= self._settings.attempts:
                self._fail(WorkerLost(f"{failures} {self.name}s in a row did not start, the last one {why}"))
                return
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _MOST_BACKOFF_SECONDS)

    async def _listen(self, slot: S) -> None:
        """Raise when the actor has been silent for too long."""
        silence = self._settings.silence_seconds
        while True:
            try:
                await asyncio.wait_for(awaited(slot.actor.alive.remote()), silence)
            except TimeoutError:
                raise WorkerLost(f"it has not answered for {silence:g} s") from None
            await asyncio.sleep(silence / 4)

    async def _end(self, slot: S) -> None:
        if slot.ready:
            with suppress(Exception):
                await asyncio.wait_for(awaited(slot.actor.close.remote()), CLOSING_SECONDS)
        slot.ready = False
        self._cluster.kill(slot.actor)


class Weights:
    """The latest weights of a trainer.

    Attributes:
        reference: Into the object store; None before the first update.
        version: Number of updates.
    """

    def __init__(self) -> None:
        self.reference: Any = None
        self.version = 0

    async def start(self, actor: Any, *arguments: Any) -> Mapping[str, Any]:
        """Start an actor with them, even if they change while it starts."""
        version = self.version
        about: Mapping[str, Any] = await actor.start.remote(self.reference, version, *arguments)
        while version != self.version:
            version = self.version
            await actor.load.remote(self.reference, version)
        return about


def _check_versions(about: Mapping[str, Any]) -> None:
    """Reject an actor whose versions differ from this process's.

    Raises:
        ConfigError: They do.
    """
    theirs = about["versions"]
    for name, version in versions().items():
        if theirs.get(name) != version:
            raise ConfigError(
                f"node {about['node']} has {name} {theirs.get(name)}, and this process has {version}; install the "
                "same there"
            )


def cause_of(error: BaseException) -> BaseException:
    """The user's error within Ray's."""
    if isinstance(error, BaseExceptionGroup):
        return cause_of(error.exceptions[0])
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else error


def _first_line(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _first_line(error.exceptions[0])
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
