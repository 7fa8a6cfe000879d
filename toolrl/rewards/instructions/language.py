"""The language of a text, by the profiles that come with langdetect (as in IFEval)."""

from __future__ import annotations

import functools
from typing import Any

from toolrl.errors import MissingExtra


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the text's language ("zh-cn" and "zh-tw" for Chinese); None if it is unknown.

    Deterministic: langdetect samples, here with a fixed seed.

    Raises:
        MissingExtra: langdetect is not installed.
    """
    factory = detector_factory()
    from langdetect import LangDetectException

    detector = factory.create()
    detector.append(text)
    try:
        code = str(detector.detect())
    except LangDetectException:
        return None
    return None if code == "unknown" else code


def known_languages() -> frozenset[str]:
    """The codes that `language_of` can return.

    Raises:
        MissingExtra: langdetect is not installed.
    """
    return frozenset(detector_factory().get_lang_list())


@functools.cache
def detector_factory() -> Any:
    """A separate factory, since the seed of langdetect's global one belongs to the application."""
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError:
        raise MissingExtra("langdetect", "instructions") from None
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory
