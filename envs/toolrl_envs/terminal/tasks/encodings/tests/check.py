"""Checks that texts were converted to UTF-8."""

import random
import sys
import unicodedata
from pathlib import Path

LINES = ("Grüße aus Köln", "déjà vu", "plain text", "", "  indented", "½ cup of ¡sí!", "tab\there", "Ångström")
WIDE = ("日本語の行", "Ελληνικά", "🙂 and 👩‍🔬", "Привет")
ENCODINGS = ("latin-1", "utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
MARKED = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def texts() -> dict[str, tuple[bytes, bytes]]:
    """The bytes before and after, by path."""
    rng = random.Random("encodings")
    found = {"texts/raw.bin": (b"\xff\xfe\r\n\x00", b"\xff\xfe\r\n\x00"), "texts/empty.txt": (b"", b"")}
    for number in range(21):
        encoding = ENCODINGS[number % len(ENCODINGS)]
        lines = rng.choices(LINES + (WIDE if encoding != "latin-1" else ()), k=rng.randrange(2, 7))
        lines += ["naïve"] if encoding == "latin-1" else ["last"]
        ending = rng.choice(("\n", "\r\n", "\r"))
        before = ending.join(lines) + rng.choice(("", ending, ending * 3))
        if encoding != "latin-1" and rng.random() < 0.6:
            before = unicodedata.normalize("NFD", before)
        name = f"texts/{rng.choice(('', 'old/', 'from Asa/'))}{number:02}.{rng.choice(('txt', 'csv', 'log'))}"
        mark = "\ufeff" if encoding in MARKED else ""
        after = unicodedata.normalize("NFC", "\n".join(lines) + "\n")
        found[name] = ((mark + before).encode(encoding), after.encode())
    return found


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {name: before for name, (before, _) in texts().items()}


def main() -> None:
    """Exit with a message unless the task is done."""
    found = {str(path): path.read_bytes() for path in Path("texts").rglob("*") if path.is_file()}
    if {*found} != {*texts()}:
        sys.exit("texts/ has other names than before")
    for name, (_, after) in texts().items():
        if found[name] != after:
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
