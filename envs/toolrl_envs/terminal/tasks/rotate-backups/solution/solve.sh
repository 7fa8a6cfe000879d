cat > rotate.sh <<'END'
#!/usr/bin/env python3
import os, re, sys
if len(sys.argv) != 3 or not os.path.isdir(sys.argv[1]) or not re.fullmatch("[0-9]+", sys.argv[2]):
    sys.exit(2)
series = {}
for entry in os.scandir(sys.argv[1]):
    if entry.is_file(follow_symlinks=False) and re.fullmatch(r"(?s).+-[0-9]{8}\.bak", entry.name):
        series.setdefault(entry.name[:-13], []).append(entry.name)
count = int(sys.argv[2])
old = [name for names in series.values() for name in sorted(names, reverse=True)[count:]]
for name in sorted(old, key=os.fsencode):
    os.remove(os.path.join(sys.argv[1], name))
    print(name)
END
chmod +x rotate.sh
