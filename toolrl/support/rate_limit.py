"""A rate limit shared by all processes of one user on one machine.

Each caller reserves the next free time slot in a small file, under a kernel lock. Nothing is held while waiting, and a
killed process leaves at most an unused slot behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolrl.errors import ConfigError, RetrieverFault

# No time further away than this is reserved or believed, whatever a server or a file says.
FARTHEST_SECONDS = 3600.0

# The boot id, so that a file from before a restart is ignored; the next free time; the end of the pause that the
# service has asked for.
_RECORD = struct.Struct("36sdd")


class RateLimit:
    """At most `per_second` calls per second, over all processes and threads that use this name and folder.

    After a pause, a burst of calls is let through at once, later ones at equal intervals (the generic cell rate
    algorithm). Times are those of the monotonic clock, which all processes of a machine share.
    """

    def __init__(self, name: str, per_second: float, *, burst: int = 1, folder: Path | None = None):
        """Open the limit, or create it.

        Args:
            name: Name of the limit; any text.
            per_second: Calls per second.
            burst: Calls that may come at once after a pause.
            folder: The folder of its file; default: one of the user's that does not survive a restart.

        Raises:
            ConfigError: `per_second` or `burst` is not positive, or the folder cannot be used.
        """
        if not (math.isfinite(per_second) and per_second > 0):
            raise ConfigError(f"per_second must be a positive number, got {per_second}")
        if burst < 1:
            raise ConfigError(f"burst must be at least 1, got {burst}")
        self.name = name
        self._interval = 1.0 / per_second
        self._slack = (burst - 1) * self._interval
        self.per_second, self.burst = per_second, burst
        folder = runtime_folder() if folder is None else folder
        self._path = folder / f"rate-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
        self._boot = _boot_id()

    def reserve(self, within_seconds: float) -> float | None:
        """Reserve the next free time slot.

        Args:
            within_seconds: Reserve nothing further away than this.

        Returns:
            Seconds until the slot, 0 if it is now; None if no slot is free within the time.

        Raises:
            RetrieverFault: The file cannot be used.
        """
        with self._locked(within_seconds) as file:
            if file is None:
                return None
            now = time.monotonic()
            free, held = self._read(file, now)
            free = max(free, held, now - self._slack)
            wait = max(0.0, free - now)
            if wait > min(within_seconds, FARTHEST_SECONDS):
                return None
            self._write(file, free + self._interval, held)
            return wait

    def hold(self, seconds: float) -> None:
        """Let no call through for some time, in any process, because the service has asked for it.

        Raises:
            RetrieverFault: The file cannot be used.
        """
        with self._locked(1.0) as file:
            if file is not None:
                now = time.monotonic()
                free, held = self._read(file, now)
                self._write(file, free, max(held, now + min(seconds, FARTHEST_SECONDS)))

    def held_seconds(self) -> float:
        """Seconds left of a `hold`; 0 if there is none.

        Raises:
            RetrieverFault: The file cannot be used.
        """
        with self._locked(1.0) as file:
            now = time.monotonic()
            return 0.0 if file is None else max(0.0, self._read(file, now)[1] - now)

    def _read(self, file: int, now: float) -> tuple[float, float]:
        """The next free time and the end of the hold; minus infinity if the file is missing, stale or implausible."""
        content = os.pread(file, _RECORD.size, 0)
        if len(content) != _RECORD.size:
            return -math.inf, -math.inf
        boot, free, held = _RECORD.unpack(content)
        latest = now + FARTHEST_SECONDS
        if boot != self._boot or not (free <= latest + self._interval and held <= latest):  # also false for NaN
            return -math.inf, -math.inf
        return free, held

    def _write(self, file: int, free: float, held: float) -> None:
        os.pwrite(file, _RECORD.pack(self._boot, free, held), 0)

    @contextmanager
    def _locked(self, within_seconds: float) -> Iterator[int | None]:
        """The open file, locked; None if another process, perhaps a stopped one, has kept the lock for too long."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RetrieverFault(f"the rate limit {self.name!r} cannot use its file: {error}") from error
        try:
            locked = _lock(file, time.monotonic() + max(within_seconds, 0.1))
            try:
                yield file if locked else None
            except OSError as error:
                raise RetrieverFault(f"the rate limit {self.name!r} cannot use its file: {error}") from error
            finally:
                if locked:  # a forked child may have a copy of the descriptor, so that closing ours would not unlock
                    fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)


def runtime_folder() -> Path:
    """A private folder of this user that does not survive a restart.

    Raises:
        ConfigError: It cannot be created, or belongs to another user.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        folder = Path(runtime) / "toolrl"
    else:
        folder = Path(tempfile.gettempdir()) / f"toolrl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(f"the folder {folder} for rate limits cannot be created: {error}") from error
    if status.st_uid != os.getuid() or folder.is_symlink():
        raise ConfigError(f"the folder {folder} for rate limits belongs to another user; set XDG_RUNTIME_DIR")
    return folder


def _lock(file: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)


def _boot_id() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36].ljust(36)
    except OSError:
        return b"unknown".ljust(36)
