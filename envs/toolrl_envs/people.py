"""Names of made-up people."""

from __future__ import annotations

import random


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


_GIVEN = words(
    "Ada Aldo Amos Anke Bela Boris Carla Cleo Dario Dina Edda Egon Elin Ezra Fanny Felix Gesa Gino Hanna Hugo Ida Igor "
    "Ines Ivo Jana Jonas Kira Kurt Lena Levi Lotte Luca Maja Milo Mona Nils Nora Olga Oskar Pia Paul Rosa Rafael Sina "
    "Silas Tara Theo Ulla Uwe Vera Viktor Wanda Willem Xenia Yara Yusuf Zita Zeno"
)
_STARTS = words(
    "Al Ba Ber Bo Cas Da Dor El Fal Fer Gar Ha Hol Jan Kar Kel La Lin Ma Mor Ne Nor Or Pa Per Ro Sal Ta Ver Wi"
)
_ENDS = words("bach berg dal den fort gard hof kamp land mann mark mond ner rup sen stad stein ton vik wald")
_FAMILIES = [start + end for start in _STARTS for end in _ENDS]


def draw_names(rng: random.Random, count: int) -> list[str]:
    """Draw names, none of which contains another."""
    return [f"{rng.choice(_GIVEN)} {family}" for family in rng.sample(_FAMILIES, count)]
