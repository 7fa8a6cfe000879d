"""Levels of isolation of local sandboxes, and the decision whether a level is enough."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from toolrl.errors import ConfigError

Level = Literal["full", "no-landlock", "no-userns", "none"]
Isolation = Literal["full", "no-landlock", "no-userns", "best_effort", "none"]


@dataclass(frozen=True)
class Layer:
    """A layer of isolation: what it does, what is open without it, how to get it."""

    purpose: str
    open_without: str
    remedy: str


LAYERS: dict[str, Layer] = {
    "namespaces": Layer(
        "own process table, mounts, users and IPC; all files but its own are read-only",
        "the code sees the machine's processes, and writes what Landlock and file permissions let it",
        "allow user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0; in Docker a seccomp profile that permits unshare and mount",
    ),
    "landlock": Layer(
        "reads only Python, the system's programs and its own files; writes only its own",
        "the code reads every file that its user id may read (home folders, keys, data sets), and writes to "
        "every device and named pipe that it may write to",
        "Linux 5.13 or newer with 'landlock' among the modules of the boot parameter lsm=",
    ),
    "seccomp": Layer(
        "no sockets, tracing, mounting, new namespaces, BPF, io_uring, memfd and other kernel interfaces",
        "the code may use every system call that an ordinary user may: Unix sockets of services, kernel bugs",
        "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or 64-bit ARM",
    ),
    "network": Layer(
        "no network, not even this machine's own addresses",
        "the code can send what it knows anywhere, and talk to services of this machine",
        "namespaces or seccomp",
    ),
    "signals": Layer(
        "signals reach its own processes only",
        "the code can kill other processes of its user id, the training run among them",
        "namespaces, or Linux 6.12 or newer with Landlock",
    ),
    "cgroup": Layer(
        "all sandboxes of a process together stay below a bound on memory and processes",
        "each process of a sandbox is limited, but not their sum: many can use up the machine's memory",
        "control groups that this process may write to: as root outside of containers, or in a systemd session "
        "to which memory and pids are delegated; not part of any level",
    ),
    "user": Layer(
        "another user id than the trainer's",
        "only the other layers separate the code from the files and processes of your own user",
        "start as root, which then gives it up in the sandbox; not part of any level",
    ),
}
_NEEDED: dict[Level, tuple[str, ...]] = {  # best first
    "full": ("namespaces", "landlock", "seccomp", "network", "signals"),
    "no-landlock": ("namespaces", "seccomp", "network", "signals"),
    "no-userns": ("landlock", "seccomp", "network", "signals"),
    "none": (),
}
_ACCEPTED: dict[str, tuple[Level, ...]] = {
    "full": ("full",),
    "no-landlock": ("full", "no-landlock"),
    "no-userns": ("full", "no-userns"),
    "best_effort": ("full", "no-landlock", "no-userns"),
    "none": ("full", "no-landlock", "no-userns", "none"),
}


@dataclass(frozen=True)
class ActiveLayers:
    """The layers found to hold inside a sandbox.

    Attributes:
        holds: For every layer of `LAYERS`, whether what it forbids failed.
        problems: Why a layer could not be set up, where the system reported it.
    """

    holds: Mapping[str, bool]
    problems: Mapping[str, str]

    @property
    def level(self) -> Level:
        """The best level whose layers all hold."""
        return next(level for level, needed in _NEEDED.items() if all(self.holds[name] for name in needed))

    def missing(self, level: Level) -> list[str]:
        """The layers of `level` that do not hold."""
        return [name for name in _NEEDED[level] if not self.holds[name]]


def wanted_isolation(isolation: Isolation | None) -> Isolation:
    """The requested isolation; by default the environment variable TOOLRL_ISOLATION, else "best_effort".

    Raises:
        ConfigError: The value is unknown, or this system has no local sandboxes.
    """
    wanted = isolation or os.environ.get("TOOLRL_ISOLATION") or "best_effort"
    if wanted not in _ACCEPTED:
        raise ConfigError(f"isolation must be one of {', '.join(get_args(Isolation))}, got {wanted!r}")
    if sys.platform != "linux":
        raise ConfigError(f"local sandboxes run on Linux only, this is {sys.platform!r}: use a virtual machine")
    return cast(Isolation, wanted)


def accept(active: ActiveLayers, isolation: Isolation) -> None:
    """Refuse less isolation than requested; with "best_effort", warn once below "full".

    Raises:
        ConfigError: The level is not accepted; says what is missing and how to get it.
    """
    level = active.level
    if level not in _ACCEPTED[isolation]:
        wanted: Level = "full" if isolation == "best_effort" else isolation
        raise ConfigError(
            f"sandboxes on this machine have isolation level {level!r}, which isolation={isolation!r} does not "
            f"accept. {_explain(active, wanted)} isolation='none', or TOOLRL_ISOLATION=none in the environment, "
            "accepts anything; `toolrl doctor` has the details."
        )
    if isolation == "best_effort" and level != "full":
        warn_once(f"sandboxes run at isolation level {level!r}. {_explain(active, 'full')}")


def _explain(active: ActiveLayers, wanted: Level) -> str:
    parts = []
    for name in active.missing(wanted):
        reason = f" ({active.problems[name]})" if name in active.problems else ""
        parts.append(f"{name}{reason}; to get it: {LAYERS[name].remedy}.")
    return f"Missing for {wanted!r}: {' '.join(parts)}"


@functools.cache
def warn_once(message: str) -> None:
    """Warn, unless this message has been given before."""
    warnings.warn(message, RuntimeWarning, stacklevel=6)
