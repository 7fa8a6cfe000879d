"""A made-up world: entities, the facts about them, and the documents that state these facts.

The settings determine everything, identically in every process.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from toolrl import ConfigError
from toolrl.search import BM25Retriever, Document
from toolrl_envs.common import Split, check_split
from toolrl_envs.world_qa.names import stems
from toolrl_envs.world_qa.population import populate
from toolrl_envs.world_qa.relations import RELATIONS, Entity, Fact, sentence

FEWEST_DOCUMENTS, MOST_DOCUMENTS = 50, 100_000
MOST_NAMESAKES = 0.8
_SENTENCES = 5


@dataclass(frozen=True, slots=True)
class Page:
    """A document, and the facts it states.

    Attributes:
        document: The document.
        ends: For each fact stated, the number of characters that must be visible to read it.
    """

    document: Document
    ends: dict[Fact, int]


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """The settings that determine a world. Calling them opens a retriever over its documents.

    Attributes:
        documents: Number of documents.
        namesakes: Fraction of people and towns that have a namesake.
        seed: Worlds whose seeds differ by less than 32 have no name in common; otherwise a few recur.
        split: Worlds of different splits never have a name in common.
    """

    documents: int
    namesakes: float
    seed: int
    split: Split

    def __post_init__(self) -> None:
        check_split(self.split)
        if not FEWEST_DOCUMENTS <= self.documents <= MOST_DOCUMENTS:
            raise ConfigError(f"documents must be from {FEWEST_DOCUMENTS} to {MOST_DOCUMENTS}, got {self.documents}")
        if not 0 <= self.namesakes <= MOST_NAMESAKES:
            raise ConfigError(f"namesakes must be from 0 to {MOST_NAMESAKES}, got {self.namesakes}")

    def __call__(self) -> BM25Retriever:
        """Open the retriever; indexing 100,000 documents takes several seconds."""
        return _retriever(self)


class World:
    """Entities, facts and documents, by the index of the entity.

    Attributes:
        entities: All of them.
        facts: All facts about each, stated or not.
        pages: The document of each.
    """

    def __init__(self, entities: Sequence[Entity], facts: Sequence[Sequence[Fact]], rng: random.Random):
        """Write the documents of a world; `rng` fixes their wordings."""
        self.entities = tuple(entities)
        self.facts = tuple(map(tuple, facts))
        self.pages = tuple(_write(*about, rng) for about in zip(self.entities, self.facts, strict=True))

    @property
    def documents(self) -> list[Document]:
        """All documents."""
        return [page.document for page in self.pages]

    def answers(self, subject: int, relations: Sequence[str]) -> set[str]:
        """All true answers to a chain of relations from a subject, stated or not."""
        reached = {subject}
        for relation in relations[:-1]:
            reached = {
                fact.target
                for index in reached
                for fact in self.facts[index]
                if fact.relation == relation and fact.target is not None
            }
        return {fact.value for index in reached for fact in self.facts[index] if fact.relation == relations[-1]}


@functools.lru_cache(maxsize=2)
def make_world(settings: WorldSettings) -> World:
    """Make the world of these settings; 100,000 documents take several seconds."""
    key = f"{settings.split}/{settings.seed}/{settings.documents}/{settings.namesakes}"
    rng = random.Random(f"world/{key}")
    own = stems(settings.seed, settings.split)
    entities, facts = populate(settings.documents, settings.namesakes, own, rng)
    return World(entities, facts, rng)


@functools.lru_cache(maxsize=2)
def _retriever(settings: WorldSettings) -> BM25Retriever:
    return BM25Retriever(make_world(settings).documents)


def _write(entity: Entity, facts: Sequence[Fact], rng: random.Random) -> Page:
    """State some facts about an entity in random order and wording; relations with two values are skipped."""
    count = {fact.relation: 0 for fact in facts}
    for fact in facts:
        count[fact.relation] += 1
    single = [fact for fact in facts if count[fact.relation] == 1]
    told = rng.sample(single, min(len(single), _SENTENCES))
    text = ""
    ends = {}
    if entity.kind == "person" and not entity.has_namesakes:
        text = f"{entity.title} is {'an' if entity.role[0] in 'aeiou' else 'a'} {entity.role}."
    for fact in told:
        wordings = RELATIONS[fact.relation].sentences
        wording = rng.choice(wordings) if text else wordings[0]
        line = sentence(wording, entity.title, entity.pronoun, entity.role, fact.value, first=not text)
        text += f" {line}" if text else line
        ends[fact] = len(text)
    return Page(Document(entity.title, entity.title, text), ends)
