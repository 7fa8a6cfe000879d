"""Which layers this machine lets us set up; each is tried in a child. Standard library only."""

import os
from collections.abc import Callable, Iterable
from functools import partial

from toolrl.sandbox.local import isolation, landlock, seccomp, views


def find_problems(directory: str, uid: int | None, without: Iterable[str]) -> dict[str, str]:
    """Layers that cannot be set up, and why.

    Args:
        directory: A folder of ours, in which sandboxes will have theirs.
        uid: The user to become first; None if we are not root.
        without: Layers that are not wanted.
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
    if "namespaces" in problems:  # root may do without the rest
        attempt("network", lambda: _in_a_child(lambda: isolation.unshare(isolation.NEWNET)))
    return problems


def _install_filter() -> None:
    isolation.renounce()
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
    """Make an attempt in a process that is gone afterwards; its error is raised here, as an OSError."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            attempt()
        except BaseException as error:  # noqa: BLE001  a trial that ends in any other way has not succeeded either
            os.write(writer, (str(error) or repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        problem = file.read()
    os.waitpid(pid, 0)
    if problem:
        raise OSError(problem)
