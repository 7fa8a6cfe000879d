"""The space of texts: the observations and actions of an environment of chat messages.

`gymnasium.spaces.Text` has a finite character set; chat does not. `UnicodeText` contains every string up to a length,
and the registrations below make vector environments work with it as they do with `Text`: a batch is a tuple of `str`.

Shared memory differs from `Text`: Gymnasium reads the buffer once, when the vector environment is built, and expects a
view that changes along with it, which a tuple of strings does not. `_SharedTexts` is such a view, and becomes a plain
tuple when Gymnasium copies it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import reprlib
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, overload

import gymnasium as gym
import numpy as np
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import utils as vector_utils
from gymnasium.wrappers.utils import create_zero_array

_SURROGATE = re.compile("[\ud800-\udfff]")

_ASCII = "".join(map(chr, range(0x20, 0x7F))) + "\n\t"
_OTHER = (
    "éüñßøłşžÅ"  # Latin beyond ASCII
    "αβγΩЖдяї"  # Greek, Cyrillic
    "\u05d0\u05d1\u05e9\u0645\u0631\u062d\u200f"  # right to left, with a direction mark
    "नमस्ते漢語日本한국어"  # combining vowels, CJK, Hangul
    "\u0301\u200d\u00a0\ufeff\u2028\x00\x7f"  # combining, joining, invisible and control characters
    "😀👩🚀🇪🇺𝔸𐍈\U0010ffff"  # outside the basic plane
    "→≤∑√€“”…"
)
_SAMPLE_LENGTH = 48


class UnicodeText(gym.Space[str]):
    """All strings of at most `max_length` characters, including the empty one.

    Strings with lone surrogates are excluded: they cannot be encoded.

    Args:
        max_length: Maximum length in characters (code points).
        seed: Seed, or generator, for `sample`.

    Raises:
        ValueError: `max_length` is not a positive integer.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        if not isinstance(max_length, (int, np.integer)) or isinstance(max_length, bool) or max_length < 1:
            raise ValueError(f"UnicodeText.max_length must be a positive integer, got {max_length!r}")
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no array of fixed length worth learning from."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Draw a short text: half ASCII with newlines, half characters that break naive code.

        Args:
            mask: Not supported by this space.
            probability: Not supported by this space.

        Raises:
            ValueError: A mask or probability was given.
        """
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither `mask` nor `probability`")
        rng = self.np_random
        length = int(rng.integers(0, min(self.max_length, _SAMPLE_LENGTH), endpoint=True))
        alphabets = (_ASCII, _OTHER)
        picks = (alphabets[int(which)] for which in rng.integers(0, 2, size=length))
        return "".join(alphabet[int(rng.integers(len(alphabet)))] for alphabet in picks)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` characters without lone surrogates."""
        return isinstance(x, str) and len(x) <= self.max_length and _SURROGATE.search(x) is None

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length


# The functions below tell Gymnasium how vector environments handle the space. Its defaults for `batch_space` (a Tuple
# of copies), `concatenate` (a tuple) and `iterate` (over that Tuple) already fit.


# Gymnasium dispatches on the first of the spaces, although the annotation says a sequence of them.
@vector_utils.batch_differing_spaces.register(UnicodeText)
def _batch_differing_spaces(spaces: Sequence[UnicodeText]) -> gym.spaces.Tuple[Any]:  # type: ignore[misc]
    return gym.spaces.Tuple([deepcopy(space) for space in spaces], seed=deepcopy(spaces[0].np_random))


@is_space_dtype_shape_equiv.register(UnicodeText)
def _is_equivalent(space: UnicodeText, other: Any) -> bool:
    return space == other


@vector_utils.create_empty_array.register(UnicodeText)
def _create_empty_array(space: UnicodeText, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return ("",) * n


@create_zero_array.register(UnicodeText)
def _create_zero_array(space: UnicodeText) -> str:  # type: ignore[misc]  # Gymnasium's is generic in the element
    return ""


# Shared memory has one row of unsigned 32-bit integers per environment, (n, 1 + max_length): the length of its text,
# then the text in UTF-32.

_CODE_POINT = np.dtype("<u4")


class _SharedTexts(Sequence[str]):
    """A live view of the texts in shared memory; a copy of it is a tuple of `str`."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows  # (n, 1 + max_length) uint32

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return row[1 : 1 + int(row[0])].tobytes().decode("utf-32-le")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


def _rows(space: UnicodeText, shared_memory: Any) -> np.ndarray:
    """The buffer as (n, 1 + max_length) uint32, without a copy."""
    return np.frombuffer(shared_memory.get_obj(), dtype=_CODE_POINT).reshape(-1, 1 + space.max_length)


@vector_utils.create_shared_memory.register(UnicodeText)
def _create_shared_memory(space: UnicodeText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array(ctypes.c_uint32, n * (1 + space.max_length))


@vector_utils.read_from_shared_memory.register(UnicodeText)
def _read_from_shared_memory(space: UnicodeText, shared_memory: Any, n: int = 1) -> _SharedTexts:
    return _SharedTexts(_rows(space, shared_memory))


@vector_utils.write_to_shared_memory.register(UnicodeText)
def _write_to_shared_memory(space: UnicodeText, index: int, value: str, shared_memory: Any) -> None:
    if value not in space:
        raise ValueError(
            f"The observation {reprlib.repr(value)} is not in {space}. Cut it, remove lone surrogates from it, "
            "or give the environment's observation_space a larger max_length."
        )
    row = _rows(space, shared_memory)[index]
    row[1 : 1 + len(value)] = np.frombuffer(value.encode("utf-32-le"), dtype=_CODE_POINT)
    row[0] = len(value)
