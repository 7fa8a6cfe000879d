"""Text whose invisible characters are made visible, for the terminal and for pages."""

from __future__ import annotations

import re

# ANSI: ECMA-48, 5.4 (control sequences) and 8.3.89 (operating system commands).
SPECIAL = re.compile(
    r"(?P<ansi>\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,400}(?:\x07|\x1b\\))"
    "|(?P<one>[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f])"
)
_NAMES = {
    0x00AD: "SHY", 0x061C: "ALM", 0x200B: "ZWSP", 0x200E: "LRM", 0x200F: "RLM", 0x2028: "LS", 0x2029: "PS",
    0x202A: "LRE", 0x202B: "RLE", 0x202C: "PDF", 0x202D: "LRO", 0x202E: "RLO", 0x2060: "WJ", 0x2066: "LRI",
    0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xFEFF: "BOM",
}  # fmt: skip


def plain(text: str) -> str:
    """The text with stand-ins for invisible characters; not yet escaped."""
    return SPECIAL.sub(lambda match: "".join(map(stand_in, match[0])), text)


def stand_in(character: str) -> str:
    """What is shown for a character: itself, if it is visible."""
    code = ord(character)
    if not SPECIAL.fullmatch(character):
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\u27e8{_NAMES.get(code, f'U+{code:04X}')}\u27e9"
