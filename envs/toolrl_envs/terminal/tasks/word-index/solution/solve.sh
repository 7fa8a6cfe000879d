python3 - > index.txt <<'END'
import re
stop = open("stop.txt").read().split()
places = {}
for number, line in enumerate(open("book.txt"), 1):
    for word in set(re.findall("[a-z](?:[a-z']*[a-z])?", line.lower())):
        if len(word) >= 4 and word not in stop:
            places.setdefault(word, []).append(str(number))
for word in sorted(places):
    print(f"{word}: {', '.join(places[word])}")
END
