"""Checks the networks that cover allowed addresses."""

import ipaddress
import itertools
import random
import sys
from pathlib import Path


def ranges() -> dict[str, list[tuple[str, int, int]]]:
    """For both files the items' text, first and last address."""
    rng = random.Random("ip-ranges")
    start = int(ipaddress.IPv4Address("10.20.0.0"))
    lists: dict[str, list[tuple[str, int, int]]] = {"allow.txt": [], "deny.txt": []}
    for name, count, bits in (("allow.txt", 40, (18, 22, 24, 26)), ("deny.txt", 30, (24, 27, 29, 31))):
        for _ in range(count):
            first = start + rng.randrange(1 << 15)
            match rng.randrange(3):
                case 0:
                    lists[name].append((str(ipaddress.IPv4Address(first)), first, first))
                case 1:
                    last = first + rng.randrange(1 << (32 - rng.choice(bits)))
                    text = rng.choice(("{}-{}", " {}-{} ")).format(
                        ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
                    )
                    lists[name].append((text, first, last))
                case 2:
                    length = rng.choice(bits)
                    low = first >> (32 - length) << (32 - length)
                    shown = rng.choice((low, first))
                    high = low + (1 << (32 - length)) - 1
                    lists[name].append((f"{ipaddress.IPv4Address(shown)}/{length}", low, high))
    # At the end of all addresses, and next to each other.
    lists["allow.txt"].append(("255.255.255.254-255.255.255.255", 2**32 - 2, 2**32 - 1))
    return lists


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("ip-ranges: comments")
    ends = ("\n", "\n", "\n\n", "  # office\n")
    return {name: "".join(text + rng.choice(ends) for text, *_ in items).encode() for name, items in ranges().items()}


def main() -> None:
    """Exit with a message unless the task is done."""
    both = ranges()
    # Between two neighbouring edges all addresses are alike.
    edges = sorted({edge for items in both.values() for _, first, last in items for edge in (first, last + 1)})
    networks = []
    for low, high in itertools.pairwise(edges):
        allowed, denied = (any(a <= low <= b for _, a, b in both[name]) for name in ("allow.txt", "deny.txt"))
        if allowed and not denied:
            first, last = ipaddress.IPv4Address(low), ipaddress.IPv4Address(high - 1)
            networks += ipaddress.summarize_address_range(first, last)
    if Path("result.txt").read_text().split() != [str(network) for network in ipaddress.collapse_addresses(networks)]:
        sys.exit("result.txt is wrong")


if __name__ == "__main__":
    main()
