"""Which language a text is in, by the profiles that come with langdetect (as IFEval does it)."""

from __future__ import annotations

import functools
from typing import Any

from toolrl.errors import MissingExtra


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the text's language ("zh-cn" and "zh-tw" for Chinese); None if nothing tells it.

    The same text always has the same language: langdetect draws at random, here from a fixed seed.

    Raises:
        MissingExtra: langdetect is not installed.
    """
    factory = _factory()
    from langdetect import LangDetectException

    detector = factory.create()
    detector.append(text)
    try:
        code = str(detector.detect())
    except LangDetectException:
        return None
    return None if code == "unknown" else code


def known_languages() -> frozenset[str]:
    """The codes that `language_of` gives.

    Raises:
        MissingExtra: langdetect is not installed.
    """
    return frozenset(_factory().get_lang_list())


@functools.cache
def _factory() -> Any:
    """A factory of our own: the seed of langdetect's global one is the application's."""
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError:
        raise MissingExtra("langdetect", "instructions") from None
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory
