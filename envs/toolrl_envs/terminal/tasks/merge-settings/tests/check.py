"""Checks a three-way merge of settings."""

import random
import sys
from pathlib import Path


def versions() -> list[dict[str, str]]:
    """Base, ours and theirs."""
    rng = random.Random("merge-settings")
    words = ("cache", "Mail", "log", "net", "retry", "ui", "zone", "Auth")
    keys = sorted({f"{rng.choice(words)}.{rng.choice(words).lower()}{rng.randrange(20)}" for _ in range(90)})
    rng.shuffle(keys)
    base, ours, theirs = ({} for _ in range(3))
    for index, key in enumerate(keys):
        value, one, other = (f"{rng.choice(words)} = {rng.randrange(100)}" for _ in range(3))
        other = one if index % 4 == 3 else other
        for version, text in zip((base, ours, theirs), (value, one, other), strict=True):
            version[key] = text
        match index % 9:
            case 0 | 1:  # changed by one
                theirs[key] = value
            case 2:
                ours[key] = value
            case 3:  # removed by one, and perhaps changed by the other
                del ours[key]
                theirs[key] = value if index % 2 else other
            case 4:
                del theirs[key]
                ours[key] = value if index % 2 else one
            case 5:  # removed by both
                del ours[key], theirs[key]
            case 6:  # added by both
                del base[key]
            case 7:  # added by one
                del base[key], (ours if index % 2 else theirs)[key]
    return [base, ours, theirs]


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("merge-settings: order")
    files = {}
    for name, version in zip(("base", "ours", "theirs"), versions(), strict=True):
        lines = [f"{key} = {value}\n" for key, value in version.items()]
        files[f"{name}.conf"] = "".join(rng.sample(lines, len(lines))).encode()
    return files


def main() -> None:
    """Exit with a message unless the task is done."""
    base, ours, theirs = versions()
    merged, conflicts = [], []
    for key in sorted({*base, *ours, *theirs}):
        before, one, other = base.get(key), ours.get(key), theirs.get(key)
        if one != other and before not in (one, other):
            conflicts.append(key)
            continue
        value = other if one == before else one
        if value is not None:
            merged.append(f"{key} = {value}")
    assert len(conflicts) > 5
    for name, expected in (("merged.conf", merged), ("conflicts.txt", conflicts)):
        if Path(name).read_text().splitlines() != expected:
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
