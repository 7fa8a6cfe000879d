"""Checks that the parts of a message were joined."""

import base64
import hashlib
import random
import sys
from pathlib import Path


def parts() -> list[bytes]:
    """The parts of the message, in order."""
    rng = random.Random("reassemble")
    return [rng.randbytes(rng.randrange(40, 120)) for _ in range(16)]


def _copy(rng: random.Random, part: bytes, number: int, total: int, damage: int) -> bytes:
    digest = hashlib.sha256(part).hexdigest()
    text = base64.encodebytes(part[::-1] if damage == 1 else part).decode()
    text = text[: len(text) // 8 * 4 - 1] if damage == 2 else text
    return f"part {number} of {total} sha256 {digest}\n{text}".encode()


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("reassemble: copies")
    copies = []
    for number, part in enumerate(parts(), 1):
        copies.append(_copy(rng, part, number, 16, 0))
        copies += [_copy(rng, part, number, 16, rng.randrange(3)) for _ in range(rng.randrange(3))]
        if number % 4 == 0:
            copies.append(_copy(rng, rng.randbytes(60), number, 17, 0))
    names = rng.sample(range(1000, 10_000), len(copies))
    return {f"parts/{name}.part": copy for name, copy in zip(names, copies, strict=True)}


def main() -> None:
    """Exit with a message unless the task is done."""
    if Path("message.bin").read_bytes() != b"".join(parts()):
        sys.exit("message.bin is wrong")


if __name__ == "__main__":
    main()
