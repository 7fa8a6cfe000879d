python3 - <<'END'
import os, re
files = re.split(r"^diff --git .*\n", open("changes.patch").read(), flags=re.M)[1:]
for text in files:
    source, target = (re.search(rf"^{mark} (.*)", text, re.M)[1].split("/", 1)[1] for mark in (r"---", r"\+\+\+"))
    lines = [] if source == "dev/null" else open(source).read().splitlines(True)
    place = 0
    for hunk in re.split(r"^@@.*\n", text, flags=re.M)[1:]:
        body = hunk.splitlines(True)
        old = [line[1:] for line in body if line[0] in " -"]
        new = [line[1:] for line in body if line[0] in " +"]
        while lines[place:place + len(old)] != old:
            place += 1
        lines[place:place + len(old)] = new
        place += len(new)
    if target == "dev/null":
        os.remove(source)
    else:
        open(target, "w").writelines(lines)
END
