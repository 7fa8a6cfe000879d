python3 - > slow.tsv <<'END'
import collections, re
times = collections.defaultdict(list)
for line in open("access.log"):
    if found := re.search(r'"\w+ ([^ ?]+)\S* HTTP/1.1" 2\d\d (\d+)ms$', line):
        times[found[1]].append(int(found[2]))
rows = []
for path, found in times.items():
    if len(found) >= 10:
        rows.append((-sorted(found)[-(-95 * len(found) // 100) - 1], path, len(found)))
for percentile, path, count in sorted(rows):
    print(path, count, -percentile, sep="\t")
END
