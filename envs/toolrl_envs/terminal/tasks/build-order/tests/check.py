"""Checks the order of a build."""

import random
import sys
from pathlib import Path


def rules() -> dict[str, list[str]]:
    """What each target needs."""
    rng = random.Random("build-order")
    names = [f"{rng.choice(('lib', 'obj', 'gen', 'doc'))}{number}" for number in rng.sample(range(10, 99), 40)]
    needs: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        earlier = rng.sample(names[:place], min(place, rng.randrange(4)))
        needs[name] = [*earlier, *(f"{name}-{part}.c" for part in range(rng.randrange(3)))]
    needs["all"] = rng.sample(names[20:36], 4)
    # Cycles among targets that nothing else needs: of three, of one, and a target that only leads to one.
    needs |= {"loop1": ["loop2", "lib.c"], "loop2": ["loop3"], "loop3": ["loop1", names[3]]}
    needs |= {"self": ["self"], "leads-in": ["loop1"], "from-loop": [names[0]]}
    needs["loop2"].append("from-loop")
    return needs


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("build-order: spelling")
    lines = ["# Rules of a project\n"]
    for target, needed in rng.sample(sorted(rules().items()), len(rules())):
        cut = rng.randrange(len(needed) + 1)
        match rng.randrange(3):
            case 0:
                lines.append(f"{target}: {' '.join(needed)}  # all of it: really\n\tbuild $@: $^\n")
            case 1:
                lines.append(f"{target}: {' '.join(needed[:cut])} \\\n    {' '.join(needed[cut:])}\n")
            case 2:
                lines.append(f"{target}:{' '.join(needed[:cut])}\n\n{target}: {' '.join(needed[cut:])}\n\techo: done\n")
    return {"rules.mk": "".join(lines).encode()}


def _closure(needs: dict[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = list(needs[start])
    while left:
        name = left.pop()
        if name in needs and name not in found:
            found.add(name)
            left += needs[name]
    return found


def main() -> None:
    """Exit with a message unless the task is done."""
    needs = rules()
    left = {"all"} | _closure(needs, "all")
    order: list[str] = []
    while left:
        order.append(min(name for name in left if not left & {*needs[name]}))
        left.remove(order[-1])
    cycles = sorted(name for name in needs if name in _closure(needs, name))
    for name, expected in (("order.txt", order), ("cycles.txt", cycles)):
        if Path(name).read_text().split() != expected:
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
