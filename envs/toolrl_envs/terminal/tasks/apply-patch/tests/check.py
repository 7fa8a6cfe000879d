"""Checks the tree after a patch."""

import difflib
import random
import sys
from pathlib import Path

VERBS = ("load", "store", "check", "count", "merge", "print", "reset")


def _source(rng: random.Random, blocks: int) -> list[str]:
    lines = []
    for number in range(blocks):
        verb = rng.choice(VERBS)
        # The body repeats, so that one line of context does not identify a place.
        lines += [f"def {verb}_{number}(items):\n", "    total = 0\n", "    for item in items:\n"]
        lines += [f"        total += item * {rng.randrange(2, 9)}\n", "    return total\n", "\n"]
    return lines


def trees() -> tuple[dict[str, str], dict[str, str], str]:
    """The files before, the files after, and the patch."""
    rng = random.Random("apply-patch")
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    patch = ""
    for name in ("alpha.py", "beta.py", "gamma.py", "delta.py", "old.py", "new.py"):
        old = [] if name == "new.py" else _source(rng, 12)
        new = [] if name == "old.py" else _source(rng, 2) if name == "new.py" else list(old)
        if name in ("alpha.py", "beta.py", "gamma.py"):
            for place in sorted(rng.sample(range(0, 66, 6), 4), reverse=True):
                match rng.randrange(3):
                    case 0:
                        new[place + 3] = f"        total += item + {rng.randrange(100)}\n"
                    case 1:
                        del new[place + 1 : place + 3]
                    case 2:
                        new[place + 4 : place + 4] = ["    total %= 97\n", f"    total -= {rng.randrange(9)}\n"]
        if old != new:
            source, target = f"a/src/{name}" if old else "/dev/null", f"b/src/{name}" if new else "/dev/null"
            patch += f"diff --git a/src/{name} b/src/{name}\n"
            patch += "".join(difflib.unified_diff(old, new, source, target))
        head = [f"# {name}, line {line}\n" for line in range({"beta.py": 5, "gamma.py": 13}.get(name, 0))]
        if old:
            before[f"src/{name}"] = "".join(head + old)
        if new:
            after[f"src/{name}"] = "".join(head + new)
    return before, after, patch


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    before, _, patch = trees()
    return {name: text.encode() for name, text in {**before, "changes.patch": patch}.items()}


def main() -> None:
    """Exit with a message unless the task is done."""
    _, after, _ = trees()
    found = {str(path): path.read_text() for path in Path("src").rglob("*") if path.is_file()}
    for name in sorted({*after, *found}):
        if found.get(name) != after.get(name):
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
