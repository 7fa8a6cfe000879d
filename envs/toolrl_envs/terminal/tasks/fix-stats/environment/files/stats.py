"""Statistics of whole numbers."""

import sys


def main():
    numbers = sorted(line.strip() for line in sys.stdin)
    count = len(numbers)
    print("count", count)
    values = [int(number) for number in numbers]
    print("sum", sum(values))
    print(f"mean {sum(values) / count:.2f}")
    middle = count // 2
    if count % 2:
        median = values[middle]
    else:
        median = (values[middle] + values[middle + 1]) / 2
    print(f"median {median:.2f}")
    print("mode", max(set(values), key=values.count))


main()
