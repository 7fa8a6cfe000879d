"""Removes what a process has left behind. Standard library only, since the sandbox zygote imports it."""

import os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def start_time(pid: int | str) -> str | None:
    """When a process started, in clock ticks since boot, which identifies it with its id; None if it does not exist."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def remove_tree(path: str) -> None:
    """Remove a directory with all its content: also locked folders, and nesting deeper than any stack or path.

    No process may still be writing to it. A missing directory is ignored.
    """
    try:
        os.chmod(path, 0o700)
        here = os.open(path, _FOLDER)
    except FileNotFoundError:
        return
    pending = [_remove_files(here)]  # folders yet to be removed, from the top down to `here`
    while pending:
        if pending[-1]:
            step = pending[-1][-1]
        else:
            pending.pop()
            step = ".."
        if pending:
            there = os.open(step, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
            if step == "..":
                os.rmdir(pending[-1].pop(), dir_fd=here)
            else:
                pending.append(_remove_files(here))
    os.close(here)
    os.rmdir(path)


def _remove_files(directory: int) -> list[str]:
    """Remove everything but folders; unlock those and return their names."""
    folders = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            os.chmod(name, 0o700, dir_fd=directory)
            folders.append(name)
    return folders
