python3 - <<'END'
import re
needs = {}
for line in open("rules.mk").read().replace("\\\n", " ").splitlines():
    line = line.split("#")[0]
    if ":" in line and not line.startswith("\t"):
        target, _, rest = line.partition(":")
        needs.setdefault(target.strip(), set()).update(rest.split())
def below(name):
    found, left = set(), [name]
    while left:
        for inner in needs[left.pop()] & needs.keys() - found:
            found.add(inner)
            left.append(inner)
    return found
left = below("all") | {"all"}
with open("order.txt", "w") as order:
    while left:
        name = min(name for name in left if not needs[name] & left)
        print(name, file=order)
        left.remove(name)
open("cycles.txt", "w").writelines(f"{name}\n" for name in sorted(needs) if name in below(name))
END
