"""Checks modes read from a listing."""

import random
import stat
import sys
from pathlib import Path

NAMES = ("run", "My notes", "a.out", "data 2", "lib.so", "tmp", "x->y", "Über", "cache", "log", "mail box")


def entries() -> list[tuple[int, str]]:
    """Mode, with the type of file, and name."""
    rng = random.Random("file-modes")
    drawn = []
    for number in range(60):
        kind = rng.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
        permissions = 0o777 if kind == stat.S_IFLNK else rng.getrandbits(9) & (0o777 if rng.random() < 0.4 else 0o775)
        if rng.random() < 0.4 and kind != stat.S_IFLNK:
            permissions |= rng.randrange(8) << 9
        drawn.append((kind | permissions, f"{rng.choice(NAMES)} {number}"))
    return drawn


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("file-modes: listing")
    lines = []
    for mode, name in entries():
        target = f" -> /opt/{rng.randrange(9)}" if stat.S_ISLNK(mode) else ""
        size, day = rng.randrange(90_000), rng.randrange(1, 29)
        lines.append(
            f"{stat.filemode(mode)} {rng.randrange(1, 9)} root staff {size:6} Jan {day:2} 10:00 {name}{target}\n"
        )
    return {"listing.txt": "".join(lines).encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    modes = [f"{stat.S_IMODE(mode):04o} {name}" for mode, name in entries()]
    unsafe = [
        name for mode, name in entries() if stat.S_ISREG(mode) and (mode & 0o002 or (mode & 0o6000 and mode & 0o020))
    ]
    for name, expected in (("modes.txt", modes), ("unsafe.txt", sorted(unsafe, key=str.encode))):
        if Path(name).read_text("utf-8").splitlines() != expected:
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
