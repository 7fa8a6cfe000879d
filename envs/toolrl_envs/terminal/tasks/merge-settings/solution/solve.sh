python3 - <<'END'
def read(name):
    return dict(line.rstrip("\n").split(" = ", 1) for line in open(name))
base, ours, theirs = map(read, ("base.conf", "ours.conf", "theirs.conf"))
with open("merged.conf", "w") as merged, open("conflicts.txt", "w") as conflicts:
    for key in sorted({*base, *ours, *theirs}):
        before, one, other = base.get(key), ours.get(key), theirs.get(key)
        if one != other and before not in (one, other):
            print(key, file=conflicts)
        elif (value := other if one == before else one) is not None:
            print(key, "=", value, file=merged)
END
