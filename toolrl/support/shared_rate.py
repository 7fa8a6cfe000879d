"""Rate limits shared by several machines: the process that TOOLRL_RATES names keeps them, and the others ask it.

Where it is not set, a limit is that of the machine.
"""

from __future__ import annotations

import functools
import os

import httpx

from toolrl.errors import RetrieverFault
from toolrl.support.rate_limit import FARTHEST_SECONDS, RateLimit

RATES_VARIABLE = "TOOLRL_RATES"  # the server's address and key: "URL KEY"
_TIMEOUT_SECONDS = 10.0


class SharedRateLimit:
    """A `RateLimit` that other machines keep too, where TOOLRL_RATES is set."""

    def __init__(self, limit: RateLimit):
        """Share a limit."""
        self._limit = limit

    def reserve(self, within_seconds: float) -> float | None:
        """See `RateLimit.reserve`.

        Raises:
            RetrieverFault: The server does not answer.
        """
        if not _address():
            return self._limit.reserve(within_seconds)
        return self._ask("reserve", min(within_seconds, FARTHEST_SECONDS))

    def hold(self, seconds: float) -> None:
        """See `RateLimit.hold`; raises as `reserve`."""
        if _address():
            self._ask("hold", seconds)
        else:
            self._limit.hold(seconds)

    def held_seconds(self) -> float:
        """See `RateLimit.held_seconds`; raises as `reserve`."""
        return float(self._ask("held", 0.0) or 0.0) if _address() else self._limit.held_seconds()

    def _ask(self, what: str, seconds: float) -> float | None:
        url, _, key = _address().partition(" ")
        limit = self._limit
        body = {"name": limit.name, "per_second": limit.per_second, "burst": limit.burst, "seconds": seconds}
        try:
            answer = _client().post(f"{url}/{what}", json=body, headers={"Authorization": f"Bearer {key}"})
            answer.raise_for_status()
            found: float | None = answer.json().get("seconds")
        except (httpx.HTTPError, ValueError) as error:
            raise RetrieverFault(f"the rate limit {limit.name!r} cannot be asked for at {url}: {error}") from error
        return found


@functools.cache
def _client() -> httpx.Client:
    """Shared by all limits of a process: making one takes longer than a request."""
    return httpx.Client(timeout=_TIMEOUT_SECONDS)


def _address() -> str:
    return os.environ.get(RATES_VARIABLE, "")
