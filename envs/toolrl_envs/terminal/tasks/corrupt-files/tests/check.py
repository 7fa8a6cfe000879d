"""Checks that corrupt files were restored where possible."""

import hashlib
import random
import sys
from pathlib import Path


def originals() -> dict[str, bytes]:
    """The files as they should be; those whose number is divisible by 7 exist nowhere else."""
    rng = random.Random("corrupt-files")
    return {f"{rng.choice('kqvz')}{number:02}.dat": rng.randbytes(rng.randrange(30, 90)) for number in range(21)}


def _damaged(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    return rng.choice((data[:place], data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :], data + b"\n"))


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("corrupt-files: damage")
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  data/{name}\n" for name, data in originals().items())
    files = {"SHA256SUMS": sums.encode(), "data/k99.dat": b"not listed", "data/notes.txt": b"not listed either"}
    for number, (name, data) in enumerate(originals().items()):
        good = rng.choice("ab") if number % 7 else ""
        for mirror in "ab":
            other = f"{number:02x}-{name[0]}.bak" if number % 5 == 0 else name
            files[f"mirrors/{mirror}/{other}"] = data if mirror == good else _damaged(rng, data)
        match number % 4 if number % 7 else 1:
            case 0:
                pass  # missing
            case 1:
                files[f"data/{name}"] = _damaged(rng, data)
            case _:
                files[f"data/{name}"] = data
    return files


def main() -> None:
    """Exit with a message unless the task is done."""
    lost = sorted(name for number, name in enumerate(originals()) if number % 7 == 0)
    found = {str(path.relative_to("data")): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    if found != {name: data for name, data in originals().items() if name not in lost}:
        sys.exit("data/ has other files than it should")
    if Path("lost.txt").read_text().splitlines() != lost:
        sys.exit("lost.txt is wrong")


if __name__ == "__main__":
    main()
