cat > render <<'END'
#!/usr/bin/env python3
import os, re, sys
def value(found):
    if found[0] == "$$":
        return "$"
    name, operator, text = found[1] or found[2], found[3], found[4]
    if operator == ":+":
        return text if os.environ.get(name) else ""
    if operator == ":-":
        return os.environ.get(name) or text
    if operator == "-":
        return os.environ.get(name, text)
    return os.environ[name]
NAME = "([A-Za-z_][A-Za-z0-9_]*)"
template = sys.stdin.buffer.read().decode()
try:
    output = re.sub(r"\$\$|\$%s|\$\{%s(?:(:-|:\+|-)([^}]*))?\}" % (NAME, NAME), value, template)
except KeyError:
    sys.exit(3)
sys.stdout.buffer.write(output.encode())
END
chmod +x render
