"""Deletes old backups."""

from __future__ import annotations

import random

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "rotate.sh"

BROKEN = r"""#!/bin/bash
# Usage: rotate.sh FOLDER COUNT
folder=$1
count=$2
cd $folder
for series in $(ls *.bak | sed 's/-.*//' | sort | uniq); do
    ls -t $series-*.bak | tail -n +$count | while read name; do
        rm -rf $name
        echo $name
    done
done
"""
SERIES = ("db", "db-2", "my photos", "-rf", "mail", "x*", "a", "Ünï", "9")
OTHERS = ("notes.txt", "db-2031010.bak", "db-20310101.bak.old", "-20310101.bak", "db20310101.bak", "mail-2031010x.bak")


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"rotate.sh": BROKEN.encode()}


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("rotate-backups")
    right = [_session(rng, count, int(count)) for count in ("1", "2", "3", "0", "99", "08")]
    wrong = [_session(rng, count) for count in ("-1", "two", "", "1.5", " 3")]
    refused = [
        Step(words, status=2, names=["notes.txt"])
        for words in (["."], [".", "1", "2"], ["none", "1"], [], ["notes.txt", "1"])
    ]
    return [*right, *wrong, Session([Step([".", "3"], names=["notes.txt"]), *refused], {"notes.txt": ""})]


def _session(rng: random.Random, argument: str, count: int | None = None) -> Session:
    """A folder in which all but `count` backups of each series are deleted; none if the argument is refused."""
    dates = [f"20{year}{day}" for year in range(28, 33) for day in range(1010, 1030)]
    backups = {f"{rng.choice(SERIES)}-{rng.choice(dates)}.bak" for _ in range(20)}
    old: list[str] = []
    for series in SERIES:
        names = sorted(name for name in backups if name[:-13] == series)
        old += [] if count is None else names[: max(0, len(names) - count)]
    old.sort(key=str.encode)
    files = {f"in/{name}": "" for name in (*sorted(backups), *OTHERS, "sub-20200101.bak/db-20200101.bak")}
    links = {"in/db-20190101.bak": "notes.txt"}
    left = {*files, *links, "in", "in/sub-20200101.bak"} - {f"in/{name}" for name in old}
    output = "".join(f"{name}\n" for name in old)
    return Session([Step(["in", argument], "", {}, 2 if count is None else 0, output, sorted(left))], files, links)
