cat > semver-sort <<'END'
#!/usr/bin/env python3
import re, sys
NUMBER = "(0|[1-9][0-9]*)"
NAMES = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
SHAPE = re.compile(rf"{NUMBER}\.{NUMBER}\.{NUMBER}(?:-({NAMES}))?(?:\+{NAMES})?")
found = []
for line in sys.stdin.read().split("\n"):
    if match := SHAPE.fullmatch(line):
        names = match[4].split(".") if match[4] else []
        if any(name.isdigit() and name[0] == "0" and name != "0" for name in names):
            continue
        parts = [(0, int(name), "") if name.isdigit() else (1, 0, name) for name in names]
        found.append(([int(match[1]), int(match[2]), int(match[3])], not names, parts, line))
for *_, line in sorted(found, key=lambda entry: entry[:3]):
    print(line)
END
chmod +x semver-sort
