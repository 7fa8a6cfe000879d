"""Names of made-up people, places and things: a stem of two syllables, and common words around it.

Names have few tokens with any tokenizer, since the syllables are short and recur. Each world has its own stems, so
that knowledge of one world says nothing about another.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from collections.abc import Sequence

from toolrl_envs.common import Split

# Worlds of one split share no stem if their seeds differ by less than this.
SEEDS_APART = 32

_FIRST_NAME_ATTEMPTS = 20


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = ("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
_CLUSTERS = ("br", "dr", "gr", "kr", "pr", "tr", "st", "sh", "th", "bl", "fl", "gl", "kl", "pl", "sl")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("n", "r", "l", "k", "m", "th", "d")

# Combinations of syllables that are real places, or unsuitable as names.
_TAKEN = frozenset(
    _words(
        "babel baron begin biden boden damon dublin gabon golem haram harem "
        "hegel human japan jihad kabul kazan kenan koran lenin libel lugan luton madrid mahal "
        "malik milan moral moron natal nigel niger pagan pisan putin ramen "
        "rapid roman rural salem satan sedan semen sodom stalin sudan talin tirol total turan "
        "turin vegan venal"
    )
)

FIRST_NAMES = {
    "she": _words(
        "Ada Alma Anna Bella Clara Dora Edith Ella Emma Flora Grace Hanna Helen Ida Iris Jane Julia Laura Lena Lily "
        "Lucy Maria Mary Mina Nora Olga Paula Rosa Ruth Sara Sophie Stella Tessa Vera Wanda"
    ),
    "he": _words(
        "Adam Albert Arthur Ben Carl Daniel David Edgar Erik Felix Frank Fred George Henry Hugo Ivan Jack James John "
        "Karl Leo Louis Mark Martin Max Oscar Otto Paul Peter Ralph Simon Theo Tom Victor Walter"
    ),
}

PROFESSIONS = _words("painter singer lawyer doctor teacher farmer pilot writer sailor baker actor poet")
SETTLEMENTS = _words("town city village port")

_TOWNS = ("{}", "{}", "Port {}", "North {}", "South {}", "New {}", "Old {}", "{} Bay", "{} Hill", "{} Bridge")
_REGIONS = ("{} Valley", "{} Coast", "Lower {}", "Upper {}", "{} Lands", "East {}", "West {}")
_COUNTRIES = ("{} Republic", "{} Islands", "{} Kingdom", "{} Union")
_COMPANIES = ("{} Bank", "{} Works", "{} Press", "{} Mills", "{} Steel", "{} Radio", "{} Lines", "{} Foods", "{} Glass")
_WORKS = ("Song of {}", "Return to {}", "The {} Letters", "Night in {}", "The {} Garden", "A Day in {}", "Lost {}")
_EVENTS = ("{} Cup", "{} Race", "{} Games", "{} Prize", "{} Fair", "{} Open", "{} Derby")
_PATTERNS = {
    "town": _TOWNS,
    "region": _REGIONS,
    "country": _COUNTRIES,
    "company": _COMPANIES,
    "work": _WORKS,
    "event": _EVENTS,
}


@functools.lru_cache(maxsize=8)
def stems(seed: int, split: Split) -> tuple[str, ...]:
    """The stems of a world in random order, about two thousand."""
    own = 2 * (seed % SEEDS_APART) + (split == "test")
    mine = [stem for stem in _all_stems() if zlib.crc32(stem.encode()) % (2 * SEEDS_APART) == own]
    random.Random(f"stems/{split}/{seed}").shuffle(mine)
    return tuple(mine)


@functools.cache
def _all_stems() -> tuple[str, ...]:
    openings = [onset + vowel for onset in (*_ONSETS, *_CLUSTERS) for vowel in _VOWELS]
    endings = [onset + vowel + coda for onset in (*_ONSETS, *_CLUSTERS) for vowel in _VOWELS for coda in _CODAS]
    whole = (opening + ending for opening in openings for ending in endings)
    return tuple(stem.capitalize() for stem in whole if stem not in _TAKEN)


class Namer:
    """Hands out each name once."""

    def __init__(self, stems: Sequence[str], rng: random.Random):
        """Create a namer for one world.

        Args:
            stems: Stems of the world; the fewer there are, the more things share one.
            rng: Fixes the choices.
        """
        self._stems = stems
        self._rng = rng
        self._given: set[str] = set()

    def thing(self, kind: str) -> str:
        """Draw a new name for a town, region, country, company, work or event."""
        while True:
            name = self._rng.choice(_PATTERNS[kind]).format(self._rng.choice(self._stems))
            if self._is_new(name):
                return name

    def person(self, pronoun: str, surname: str = "") -> str:
        """Draw a new name for a woman ("she") or a man ("he"), with this surname while unused first names are found."""
        for attempt in itertools.count():
            family = surname if surname and attempt < _FIRST_NAME_ATTEMPTS else self._rng.choice(self._stems)
            name = f"{self._rng.choice(FIRST_NAMES[pronoun])} {family}"
            if self._is_new(name):
                return name
        raise AssertionError  # unreachable: the loop never ends

    def _is_new(self, name: str) -> bool:
        new = name not in self._given
        self._given.add(name)
        return new
