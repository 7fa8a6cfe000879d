"""The scripted customer: answers by rules over the agent's words, the same each time, and knows no answer.

Its script is a list of stages, each a wish. It states what it is asked for and nothing more, agrees to what it wants,
insists where its script says so, and moves on to the next stage when the agent has reported a change, has refused, or
has given the information. After the last stage it ends the conversation; it does not judge whether the agent was right.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Literal, TypedDict

from toolrl import Ended, Task
from toolrl_envs.retail.shop import STORE

Until = Literal["done", "asked", "told"]


class Stage(TypedDict):
    """A wish of the customer.

    Attributes:
        says: How it is put. The first stage's is the task's prompt.
        order_id: The order that it is about.
        action: The change wished for; empty if it is a question.
        named: Patterns, in lower case, that the agent's words must match before the customer agrees to the change, or
            takes its question for answered.
        facts: What the customer answers when asked for a fact of this name, besides the facts of the script.
        insists: What it says to refusals, one after the other, before it gives in.
        until: What ends the stage: a change that is done, the question whether to make it (at which the customer thinks
            better of it), or what the agent tells.
    """

    says: str
    order_id: int
    action: str
    named: Sequence[str]
    facts: dict[str, str]
    insists: Sequence[str]
    until: Until


class Script(TypedDict):
    """What the customer knows and wants.

    Attributes:
        facts: What it answers when asked for a fact, by the names in `_FACTS`.
        wrong: The order number that it gives at first, if that is wrong.
        stages: Its wishes.
    """

    facts: dict[str, str]
    wrong: str
    stages: Sequence[Stage]


_PATIENCE = 3
_ASKING = re.compile(r"\?|\b(please|(could|can|may) (you|i|we)|need|provide|tell me|give me|let me know)\b")
_CLOSING = re.compile(r"\b(anything|something) else|\bother questions|\bhelp you with (any|other)")
_CONSENT = re.compile(
    r"\b(shall|should|may|can) (i|we)\b(?! (have|ask|get|know|help))|\bgo ahead|\bproceed|\bconfirm|\bagree|\bsure\b|"
    r"\bdo you (want|wish)|\bwould you like (me|us) to|.yes\b|\bis (that|this) (ok|all right|right|correct|fine)"
)
_ABOUT_THEM = re.compile(
    r"\be-?mail|\b(full|your) name|\bzip\b|\bpost(al)? ?code|\bidentity|\bverify|\bconfirm (the|your) order number"
)
_REFUSAL = re.compile(
    r"\b(can ?not|can.?t|unable|impossible|won.t|will not|refuse|decline|no longer|no exceptions?)\b|(\b"
    r"not|n.t)( be)? (able|possible|allowed|eligible|permitted|accept|make|cancel|return|exchange|change|refund)"
)
_NOT_FOUND = re.compile(
    r"(\b(not|cannot|unable|no)|n.t)( \w+){0,3} (find|found|locate|see|exist|such|match|record|yours)s?\b"
)
_REFERENCE = re.compile(r"\b[A-Z]\d{6}\b")
_FACTS = {
    "identity": re.compile(r"\bidentif|\bidentity|\bverify|\bauthenticat|\bwho you are|\bwho am i\b"),
    "email": re.compile(r"\be-?mail\b"),
    "name": re.compile(r"\b(your|full|last|first) name\b|\bname (and|on|is|under)\b"),
    "zip": re.compile(r"\bzip\b|\bpost(al)? ?code\b"),
    "order": re.compile(r"\border (number|id)\b|\b(which|what|(is|mean) (it|this|that)|mean) order\b"),
    "wish": re.compile(r"\b(which|what) (item|product|article|one|exactly)|\bwhat (do|would|can)\b|\bhow (can|may)\b"),
    "new": re.compile(r"\b(which|what) (colou?r|variant|option|version)|\binstead\b|\bprefer\b"),
    "address": re.compile(r"\b(new|which|what|full|complete|correct) (shipping |delivery )?address\b"),
    "reason": re.compile(r"\breason\b|\bwhy\b"),
}


class Customer:
    """Plays the customer of one episode."""

    def __init__(self, task: Task):
        self._script: Script = task.metadata["customer"]
        self._stage = 0
        self._insisted = 0
        self._patience = _PATIENCE
        self._references: set[str] = set()

    def __call__(self, message: str, store: sqlite3.Connection = STORE) -> str | Ended:
        """Answer the agent."""
        stage = self._script["stages"][self._stage]
        lowered = message.lower().replace("\u2019", "'")
        asked = [
            sentence
            for sentence in re.split(r"(?<=[.?!:])\s+|\n", lowered)
            if _ASKING.search(sentence) and not _CLOSING.search(sentence)
        ]
        facts = self._facts(stage, asked, lowered)
        named = all(re.search(pattern, lowered) for pattern in stage["named"])
        if named and stage["until"] == "told" and not facts:
            return self._move_on()
        if any(_CONSENT.search(one) and not _ABOUT_THEM.search(one) for one in asked) and (named or not facts):
            return self._decide(stage, named, store)
        references = set(_REFERENCE.findall(message)) - self._references
        self._references |= references
        if references and stage["until"] != "told":
            return self._move_on()
        if facts:
            return " ".join(facts)
        if _REFUSAL.search(lowered):
            return self._insist(stage)
        self._patience -= 1
        if self._patience == 0:
            return Ended("This leads nowhere. Goodbye.", reason="the customer gave up")
        return f"I am still waiting. {stage['facts']['wish']}"

    def _facts(self, stage: Stage, asked: Sequence[str], message: str) -> list[str]:
        known = {**self._script["facts"], **stage["facts"]}
        names = [name for name, pattern in _FACTS.items() if any(pattern.search(sentence) for sentence in asked)]
        unfound = _NOT_FOUND.search(message) and str(stage["order_id"]) not in message
        if self._script["wrong"] and self._stage == 0 and unfound:
            names.append("order")
        return list(dict.fromkeys(known[name] for name in names if name in known))

    def _decide(self, stage: Stage, named: bool, store: sqlite3.Connection) -> str | Ended:
        """Answer the question whether a change is to be made."""
        if not stage["action"]:
            return "No, please change nothing."
        if not named:
            return "Please tell me exactly what you would do, and with which order."
        if stage["until"] == "asked":
            return self._move_on()
        with store:
            store.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (stage["order_id"], stage["action"]))
        return "Yes, please do that."

    def _insist(self, stage: Stage) -> str | Ended:
        self._insisted += 1
        if self._insisted <= len(stage["insists"]):
            return stage["insists"][self._insisted - 1]
        return self._move_on()

    def _move_on(self) -> str | Ended:
        self._stage, self._insisted, self._patience = self._stage + 1, 0, _PATIENCE
        if self._stage == len(self._script["stages"]):
            return Ended("Thank you, that is all. Goodbye.", reason="the customer was finished")
        return self._script["stages"][self._stage]["says"]
