"""Finds out which layers of isolation this machine offers, and which hold inside a worker; standard library only.

A layer is set up in a child first, to see why it fails if it does. Inside a worker it counts as active only if an
attempt at what it forbids fails: what the calls that set it up return proves nothing.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial

from toolrl.sandbox.local import isolation, landlock, seccomp, views


def find_problems(directory: str, uid: int | None, without: Iterable[str]) -> dict[str, str]:
    """Find the layers that cannot be set up, and why.

    Args:
        directory: The folder in which sandboxes will have theirs.
        uid: The user to become first; None if we are not root.
        without: Layers to leave out.
    """
    problems = {layer: "switched off" for layer in without if layer}

    def attempt(layer: str, function: Callable[[], object]) -> None:
        try:
            if layer not in problems:
                function()
        except OSError as error:
            problems[layer] = str(error)

    attempt("landlock", landlock.abi)
    attempt("seccomp", lambda: _in_a_child(_install_filter))
    attempt("namespaces", lambda: _in_a_child(lambda: _enter_namespaces(directory, uid)))
    if "namespaces" in problems:  # root can have it even so
        attempt("network", lambda: _in_a_child(lambda: isolation.unshare(isolation.NEWNET)))
    return problems


def _install_filter() -> None:
    isolation.drop_privileges()
    seccomp.install(seccomp.program(os.uname().machine, attributes=True))


def _enter_namespaces(directory: str, uid: int | None) -> None:
    isolation.share_namespaces(directory, uid)
    _in_a_child(lambda: _enter_view(directory))


def _enter_view(directory: str) -> None:
    processes, _ = views.share_view(directory, lambda home: {})
    limits = {"disk_mb": 1, "files": 1}
    found = os.stat("/usr")
    bindings = [("/usr", "bound", [found.st_dev, found.st_ino])]
    attempt = partial(views.enter_private_view, directory, limits, bindings, processes)
    _in_a_child(attempt, isolation.fork_into_namespaces)


def _in_a_child(attempt: Callable[[], object], fork: Callable[[], int] = os.fork) -> None:
    """Make an attempt in a short-lived process; raise its error here, as an OSError."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            attempt()
        except BaseException as error:  # noqa: BLE001  any exception means that the attempt failed
            os.write(writer, (str(error) or repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        problem = file.read()
    os.waitpid(pid, 0)
    if problem:
        raise OSError(problem)


def active_layers(trainer: int, *, loopback: bool = False) -> dict[str, bool]:
    """Test which layers hold in this process.

    Args:
        trainer: User id of the process that opens sandboxes.
        loopback: Whether it may reach itself.
    """
    elsewhere = "192.0.2.1" if loopback else "127.0.0.1"  # an address of nobody
    return {
        "namespaces": os.getpid() == 1 and _fails(_make_nameless_file, errno.EROFS),
        "landlock": _fails(lambda: os.open("/", os.O_RDONLY), errno.EACCES),
        "seccomp": _fails(lambda: os.memfd_create("check"), errno.EPERM),
        "network": _fails(partial(_reach, elsewhere), errno.EPERM, errno.ENETUNREACH),
        "signals": os.getppid() == 0 or _fails(lambda: os.kill(os.getppid(), 0), errno.EPERM),
        "user": os.getuid() != trainer,
    }


def _fails(attempt: Callable[[], int | None], *expected: int) -> bool:
    """Whether an attempt fails with one of the expected errors."""
    try:
        descriptor = attempt()
    except OSError as error:
        return error.errno in expected
    if descriptor is not None:
        os.close(descriptor)
    return False


def _make_nameless_file() -> int:
    return os.open("/", os.O_TMPFILE | os.O_WRONLY)  # any name might exist already


def _reach(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing; fails unless a device that is up leads there
