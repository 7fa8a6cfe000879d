python3 - <<'END'
import re
unsafe = []
with open("modes.txt", "w") as modes:
    for line in open("listing.txt"):
        mode, name = re.match(r"(\S+) +\d+ root staff +\d+ Jan +\d+ 10:00 (.*)", line).groups()
        if mode[0] == "l":
            name = name.split(" -> ")[0]
        special = sum(bit for place, bit in ((3, 4), (6, 2), (9, 1)) if mode[place] in "sStT")
        bits = "".join("0" if letter in "-ST" else "1" for letter in mode[1:])
        print(f"{special}{int(bits, 2):03o} {name}", file=modes)
        if mode[0] == "-" and (mode[8] == "w" or (special & 6 and mode[5] == "w")):
            unsafe.append(name)
open("unsafe.txt", "w").writelines(f"{name}\n" for name in sorted(unsafe, key=str.encode))
END
