cat > life <<'END'
#!/usr/bin/env python3
import sys
rows = sys.stdin.read().split()
for _ in range(int(sys.argv[1])):
    high, wide = len(rows), len(rows[0])
    def alive(y, x):
        return sum(rows[(y + dy) % high][(x + dx) % wide] == "#" for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)
    rows = ["".join(".#"[alive(y, x) == 3 or (alive(y, x) == 2 and rows[y][x] == "#")] for x in range(wide)) for y in range(high)]
print(*rows, sep="\n")
END
chmod +x life
