"""Entities and facts of a world, and the relations with their wordings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entity:
    """A person, place or thing with its own document.

    Attributes:
        kind: "person", "town", "region", "country", "company", "work" or "event".
        name: The name, shared with others of its kind if it has namesakes.
        title: The name, with the role in parentheses if it has namesakes; unique in its world.
        role: The profession of a person, the size of a town, the form of a work; empty otherwise.
        pronoun: "she", "he" or "it".
    """

    kind: str
    name: str
    title: str
    role: str
    pronoun: str

    @property
    def has_namesakes(self) -> bool:
        """Whether another entity has the same name."""
        return self.title != self.name


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact about an entity, whose value is another entity, a number or a date.

    Attributes:
        relation: A key of `RELATIONS`.
        value: The value as text.
        target: The index of the entity whose title is the value; None for numbers and dates.
    """

    relation: str
    value: str
    target: int | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact, and its wordings.

    Attributes:
        sentences: Wordings in documents, with {it} and {its} for the subject, {role} for its role, and {value}. The
            first one has {it}, so that a document can begin with it.
        questions: Questions for the value of {x}.
        phrase: A noun phrase for the value, from which a question can continue; empty for numbers and dates.
    """

    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    phrase: str = ""


RELATIONS = {
    # People.
    "birth_date": Relation(("{it} was born on {value}.",), ("When was {x} born?", "On which day was {x} born?")),
    "birthplace": Relation(
        ("{it} was born in {value}.", "{its} birthplace is {value}.", "{it} comes from {value}."),
        ("Where was {x} born?", "In which place was {x} born?"),
        "the birthplace of {x}",
    ),
    "home": Relation(
        ("{it} lives in {value}.", "{its} home is in {value}."),
        ("Where does {x} live?", "In which place does {x} live?"),
        "the place where {x} lives",
    ),
    "employer": Relation(
        ("{it} works for {value}.", "{its} employer is {value}."),
        ("Which company does {x} work for?", "Who is the employer of {x}?"),
        "the employer of {x}",
    ),
    "spouse": Relation(
        ("{it} is married to {value}.", "{its} spouse is {value}."),
        ("Who is the spouse of {x}?", "Who is married to {x}?"),
        "the spouse of {x}",
    ),
    "mother": Relation(
        ("{it} is a child of {value}, {its_own} mother.", "{its} mother is {value}."),
        ("Who is the mother of {x}?",),
        "the mother of {x}",
    ),
    "father": Relation(
        ("{it} is a child of {value}, {its_own} father.", "{its} father is {value}."),
        ("Who is the father of {x}?",),
        "the father of {x}",
    ),
    "child": Relation(
        ("{it} has one child, {value}.", "{its} only child is {value}."),
        ("Who is the child of {x}?",),
        "the child of {x}",
    ),
    "founded_company": Relation(
        ("{it} founded {value}.", "{it} is the founder of {value}."),
        ("Which company did {x} found?",),
        "the company founded by {x}",
    ),
    "made_work": Relation(
        ("{it} created {value}.", "{it} is the author of {value}."),
        ("Which work did {x} create?",),
        "the work created by {x}",
    ),
    "won_event": Relation(
        ("{it} won {value}.", "{it} is the winner of {value}."),
        ("Which event did {x} win?",),
        "the event won by {x}",
    ),
    # Towns, regions, countries.
    "region": Relation(
        ("{it} is a {role} in {value}.", "{it} lies in {value}."),
        ("In which region is {x}?", "Which region does {x} lie in?"),
        "the region of {x}",
    ),
    "country": Relation(
        ("{it} is a region of {value}.", "{it} is part of {value}."),
        ("In which country is {x}?", "Which country does {x} belong to?"),
        "the country of {x}",
    ),
    "capital": Relation(
        ("{it} has its capital in {value}.", "{its} capital is {value}."),
        ("What is the capital of {x}?",),
        "the capital of {x}",
    ),
    "mayor": Relation(
        ("{it} has {value} as its mayor.", "{its} mayor is {value}."),
        ("Who is the mayor of {x}?",),
        "the mayor of {x}",
    ),
    "president": Relation(
        ("{it} is led by {value}, its president.", "{its} president is {value}."),
        ("Who is the president of {x}?",),
        "the president of {x}",
    ),
    "population": Relation(
        ("{it} has {value} inhabitants.", "{it} is home to {value} people."),
        ("How many people live in {x}?", "What is the population of {x}?"),
    ),
    "area": Relation(
        ("{it} covers {value} square miles.", "{its} area is {value} square miles."),
        ("How many square miles does {x} cover?",),
    ),
    "founding_year": Relation(
        ("{it} was founded in {value}.", "{it} goes back to {value}."),
        ("When was {x} founded?", "In which year was {x} founded?"),
    ),
    # Companies, works, events.
    "founder": Relation(
        ("{it} was founded by {value}.", "{its} founder is {value}."),
        ("Who founded {x}?", "Who is the founder of {x}?"),
        "the founder of {x}",
    ),
    "seat": Relation(
        ("{it} is a company in {value}.", "{it} is based in {value}."),
        ("Where is {x} based?", "In which place is the seat of {x}?"),
        "the seat of {x}",
    ),
    "staff": Relation(
        ("{it} employs {value} people.", "{it} has {value} workers."),
        ("How many people does {x} employ?", "How many workers has {x}?"),
    ),
    "author": Relation(
        ("{it} is a {role} by {value}.", "{it} is a {role} that {value} created."),
        ("Who created {x}?", "Who is the author of {x}?"),
        "the author of {x}",
    ),
    "setting": Relation(
        ("{it} is set in {value}.", "{it} tells of life in {value}."),
        ("Where is {x} set?", "In which place is {x} set?"),
        "the setting of {x}",
    ),
    "release_year": Relation(
        ("{it} came out in {value}.", "{it} was first shown in {value}."),
        ("When did {x} come out?", "In which year did {x} come out?"),
    ),
    "venue": Relation(
        ("{it} took place in {value}.", "{it} was held in {value}."),
        ("Where did {x} take place?", "In which place was {x} held?"),
        "the venue of {x}",
    ),
    "event_date": Relation(
        ("{it} took place on {value}.", "{it} was held on {value}."),
        ("When did {x} take place?", "On which day was {x} held?"),
    ),
    "winner": Relation(
        ("{it} was won by {value}.", "{its} winner was {value}."),
        ("Who won {x}?", "Who was the winner of {x}?"),
        "the winner of {x}",
    ),
    "sponsor": Relation(
        ("{it} was paid for by {value}.", "{its} sponsor was {value}."),
        ("Which company paid for {x}?", "Who was the sponsor of {x}?"),
        "the sponsor of {x}",
    ),
}

_POSSESSIVE = {"she": "her", "he": "his", "it": "its"}


def sentence(wording: str, name: str, pronoun: str, role: str, value: str, *, first: bool) -> str:
    """Write out a fact, with the subject's name in the first sentence of a document and its pronoun later."""
    own = _POSSESSIVE[pronoun]
    it = name if first else pronoun.capitalize()
    return wording.format(it=it, its=own.capitalize(), its_own=own, role=role, value=value)
