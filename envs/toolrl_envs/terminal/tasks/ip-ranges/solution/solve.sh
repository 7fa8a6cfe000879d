python3 - > result.txt <<'END'
import ipaddress
def read(name):
    for line in open(name):
        item = line.split("#")[0].strip()
        if "-" in item:
            first, last = item.split("-")
            yield int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last)) + 1
        elif item:
            network = ipaddress.IPv4Network(item, strict=False)
            yield int(network[0]), int(network[-1]) + 1
steps = sorted([*((edge, 0, side) for pair in read("allow.txt") for edge, side in zip(pair, (1, -1))),
                *((edge, 1, side) for pair in read("deny.txt") for edge, side in zip(pair, (1, -1)))])
networks, depth, start = [], [0, 0], 0
for edge, which, side in steps:
    if depth[0] and not depth[1] and edge > start:
        networks += ipaddress.summarize_address_range(ipaddress.IPv4Address(start), ipaddress.IPv4Address(edge - 1))
    depth[which] += side
    start = edge
print(*ipaddress.collapse_addresses(networks), sep="\n")
END
