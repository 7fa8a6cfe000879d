python3 - > errors.csv <<'END'
import collections, glob
counts = collections.Counter()
for name in glob.glob("logs/*.log"):
    for line in open(name):
        _, level, service, *_ = line.split()
        counts[service.rstrip(":")] += level == "ERROR"
print("service,errors")
for service, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
    if count:
        print(service, count, sep=",")
END
