"""Looks, from inside a worker, at which layers really hold; standard library only.

Each check tries what its layer forbids. Nothing is taken from the answers of the calls that set it up.
"""

import errno
import os
import socket
from collections.abc import Callable


def active(trainer: int) -> dict[str, bool]:
    """Which layers hold in this process.

    Args:
        trainer: User id of the process that opens the sandboxes.
    """
    return {
        "namespaces": os.getpid() == 1 and _fails(_make_nameless_file, errno.EROFS),
        "landlock": _fails(lambda: os.open("/", os.O_RDONLY), errno.EACCES),
        "seccomp": _fails(lambda: os.memfd_create("check"), errno.EPERM),
        "network": _fails(_reach_this_machine, errno.EPERM, errno.ENETUNREACH),
        "signals": os.getppid() == 0 or _fails(lambda: os.kill(os.getppid(), 0), errno.EPERM),
        "user": os.getuid() != trainer,
    }


def _fails(attempt: Callable[[], int | None], *expected: int) -> bool:
    """Whether an attempt fails with one of the errors expected."""
    try:
        descriptor = attempt()
    except OSError as error:
        return error.errno in expected
    if descriptor is not None:
        os.close(descriptor)
    return False


def _make_nameless_file() -> int:
    return os.open("/", os.O_TMPFILE | os.O_WRONLY)  # a name may be somebody's already


def _reach_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))  # sends nothing; fails where not even the loopback device is up
