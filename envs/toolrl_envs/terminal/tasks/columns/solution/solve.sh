cat > columns <<'END'
#!/usr/bin/env python3
import re, sys
rows = [[field.strip(" ") for field in line.split("\t")] for line in sys.stdin.read().splitlines()]
if rows:
    count = len(rows[0])
    rows = [(row + [""] * count)[:count] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    right = []
    for column in zip(*rows[1:]) if rows[1:] else [()] * count:
        entries = [entry for entry in column if entry]
        right.append(entries and all(re.fullmatch(r"[+-]?([0-9]+(\.[0-9]+)?|\.[0-9]+)", entry) for entry in entries))
    for row in [rows[0], ["-" * width for width in widths], *rows[1:]]:
        cells = [cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(row, widths, right)]
        print("  ".join(cells).rstrip(" "))
END
chmod +x columns
