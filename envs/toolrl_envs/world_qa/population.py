"""The entities of a world, and the facts that relate them."""

from __future__ import annotations

import calendar
import random
from collections.abc import Sequence

from toolrl_envs.world_qa.names import PROFESSIONS, SETTLEMENTS, Namer
from toolrl_envs.world_qa.relations import Entity, Fact

# Fractions of the documents; the rest are people. Each kind occurs at least once.
_SHARES = {"country": 0.004, "region": 0.03, "town": 0.17, "company": 0.13, "work": 0.12, "event": 0.06}
_WORKS = ("novel", "film", "play", "song")
_STEMS_PER_DOCUMENT = 0.25
_FEWEST_STEMS = 40
_LAST_PARENT_BORN = 1930  # so that their children are fifty in the past


def populate(
    documents: int, namesakes: float, stems: Sequence[str], rng: random.Random
) -> tuple[list[Entity], list[list[Fact]]]:
    """Make entities, and by the same index all facts about each.

    Args:
        documents: Number of entities.
        namesakes: Fraction of people and towns that have a namesake.
        stems: Stems of the names.
        rng: Fixes all other choices.
    """
    return _Population(documents, namesakes, stems, rng).make()


class _Population:
    def __init__(self, documents: int, namesakes: float, stems: Sequence[str], rng: random.Random):
        self._rng = rng
        self._share = namesakes
        count = max(_FEWEST_STEMS, round(documents * _STEMS_PER_DOCUMENT))
        self._namer = Namer(stems[:count], rng)
        self._entities: list[Entity] = []
        self._facts: list[list[Fact]] = []
        self._born: dict[int, int] = {}  # year, by person
        counts = {kind: max(1, round(documents * share)) for kind, share in _SHARES.items()}
        counts["person"] = documents - sum(counts.values())
        start = 0
        self._of: dict[str, range] = {}
        for kind, number in counts.items():
            self._of[kind] = range(start, start + number)
            start += number

    def make(self) -> tuple[list[Entity], list[list[Fact]]]:
        for kind, indices in self._of.items():
            for _ in indices:
                self._entities.append(self._person() if kind == "person" else self._thing(kind))
        self._facts = [[] for _ in self._entities]
        parents = self._parents()
        self._name_people(parents)
        for kind in ("person", "town"):
            self._make_namesakes(kind)
        self._relate_places()
        self._relate_people(parents)
        self._relate_things()
        return self._entities, self._facts

    # ---- entities

    def _thing(self, kind: str) -> Entity:
        role = {"town": SETTLEMENTS, "work": _WORKS}.get(kind)
        name = self._namer.thing(kind)
        return Entity(kind, name, name, self._rng.choice(role) if role else "", "it")

    def _person(self) -> Entity:
        return Entity("person", "", "", self._rng.choice(PROFESSIONS), self._rng.choice(("she", "he")))

    def _parents(self) -> dict[int, int]:
        """Draw parents for half of the people, among those before them, with at most two children each."""
        parents: dict[int, int] = {}
        free: list[int] = []
        for person in self._of["person"]:
            if free and self._rng.random() < 0.5:
                place = self._rng.randrange(len(free))
                parent = free[place]
                free[place] = free[-1]
                free.pop()
                parents[person] = parent
                self._born[person] = self._born[parent] + self._rng.randint(20, 40)
            else:
                self._born[person] = self._rng.randint(1850, 1960)
            if self._born[person] <= _LAST_PARENT_BORN:
                free += [person] * 2
        return parents

    def _name_people(self, parents: dict[int, int]) -> None:
        """Name everyone; most children share their parent's surname."""
        for person in self._of["person"]:
            parent = parents.get(person)
            surname = ""
            if parent is not None and self._rng.random() < 0.7:
                surname = self._entities[parent].name.split()[-1]
            entity = self._entities[person]
            name = self._namer.person(entity.pronoun, surname)
            self._entities[person] = Entity("person", name, name, entity.role, entity.pronoun)

    def _make_namesakes(self, kind: str) -> None:
        """Give pairs of entities the same name, distinguished by their roles."""
        indices = self._of[kind]
        pairs = round(len(indices) * self._share / 2)
        chosen = self._rng.sample(indices, 2 * pairs)
        roles = PROFESSIONS if kind == "person" else SETTLEMENTS
        for one, other in zip(chosen[::2], chosen[1::2], strict=True):
            first, second = self._entities[one], self._entities[other]
            role = second.role
            if role == first.role:
                role = self._rng.choice([different for different in roles if different != first.role])
            name, pronoun = first.name, first.pronoun
            self._entities[one] = Entity(kind, name, f"{name} ({first.role})", first.role, pronoun)
            self._entities[other] = Entity(kind, name, f"{name} ({role})", role, pronoun)

    # ---- facts

    def _say(self, subject: int, relation: str, value: int | str) -> None:
        if isinstance(value, str):
            self._facts[subject].append(Fact(relation, value))
        else:
            self._facts[subject].append(Fact(relation, self._entities[value].title, value))

    def _any(self, kind: str) -> int:
        return self._rng.choice(self._of[kind])

    def _date(self, year: int) -> str:
        month = self._rng.randint(1, 12)
        return f"{self._rng.randint(1, 28)} {calendar.month_name[month]} {year}"

    def _relate_places(self) -> None:
        towns_of: dict[int, list[int]] = {}
        for number, town in enumerate(self._of["town"]):
            regions = self._of["region"]
            region = regions[number] if number < len(regions) else self._any("region")
            towns_of.setdefault(region, []).append(town)
            self._say(town, "region", region)
            self._say(town, "population", str(self._rng.randint(300, 90_000)))
            self._say(town, "founding_year", str(self._rng.randint(1100, 1900)))
            self._say(town, "mayor", self._any("person"))
        for number, region in enumerate(self._of["region"]):
            countries = self._of["country"]
            country = countries[number] if number < len(countries) else self._any("country")
            capital = self._rng.choice(towns_of[region])
            self._say(region, "country", country)
            self._say(region, "capital", capital)
            self._say(region, "area", str(self._rng.randint(200, 9000)))
            if number < len(countries):
                self._say(country, "capital", capital)
        for country in self._of["country"]:
            self._say(country, "president", self._any("person"))
            self._say(country, "founding_year", str(self._rng.randint(1500, 1950)))

    def _relate_people(self, parents: dict[int, int]) -> None:
        married: set[int] = set()
        for person in self._of["person"]:
            self._say(person, "birth_date", self._date(self._born[person]))
            self._say(person, "birthplace", self._any("town"))
            self._say(person, "home", self._any("town"))
            if self._rng.random() < 0.7:
                self._say(person, "employer", self._any("company"))
            parent = parents.get(person)
            if parent is not None:
                self._say(person, "mother" if self._entities[parent].pronoun == "she" else "father", parent)
                self._say(parent, "child", person)
            other = self._any("person")
            related = other == person or parents.get(person) == other or parents.get(other) == person
            if not related and not {person, other} & married and abs(self._born[person] - self._born[other]) < 30:
                married |= {person, other}
                self._say(person, "spouse", other)
                self._say(other, "spouse", person)

    def _relate_things(self) -> None:
        for company in self._of["company"]:
            founder = self._any("person")
            self._say(company, "founder", founder)
            self._say(founder, "founded_company", company)
            self._say(company, "seat", self._any("town"))
            self._say(company, "staff", str(self._rng.randint(20, 9000)))
            self._say(company, "founding_year", str(self._born[founder] + self._rng.randint(20, 50)))
        for work in self._of["work"]:
            author = self._any("person")
            self._say(work, "author", author)
            self._say(author, "made_work", work)
            self._say(work, "setting", self._any("town"))
            self._say(work, "release_year", str(self._born[author] + self._rng.randint(20, 50)))
        for event in self._of["event"]:
            winner = self._any("person")
            self._say(event, "winner", winner)
            self._say(winner, "won_event", event)
            self._say(event, "venue", self._any("town"))
            self._say(event, "sponsor", self._any("company"))
            self._say(event, "event_date", self._date(self._born[winner] + self._rng.randint(20, 50)))
