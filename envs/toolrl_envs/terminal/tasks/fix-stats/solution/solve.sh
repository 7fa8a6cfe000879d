cat > stats.py <<'END'
"""Statistics of whole numbers."""
import sys
from collections import Counter
from fractions import Fraction
def rounded(value):
    cents = int(abs(value) * 100 + Fraction(1, 2))
    return f"{'-' if value < 0 and cents else ''}{cents // 100}.{cents % 100:02}"
values = sorted(int(line) for line in sys.stdin if line.strip())
print("count", len(values))
if values:
    print("sum", sum(values))
    print("mean", rounded(Fraction(sum(values), len(values))))
    print("median", rounded(Fraction(values[(len(values) - 1) // 2] + values[len(values) // 2], 2)))
    counts = Counter(values)
    print("mode", min(counts, key=lambda value: (-counts[value], value)))
END
