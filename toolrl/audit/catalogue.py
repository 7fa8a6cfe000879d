"""Every exploit: those that come with toolrl, by family, and those that authors have registered."""

from __future__ import annotations

from toolrl.audit.exploit import Exploit, registered
from toolrl.audit.exploits_answers import ANSWERS, VALUES
from toolrl.audit.exploits_code import CODE
from toolrl.audit.exploits_memory import MEMORY
from toolrl.audit.exploits_nearby import NEARBY
from toolrl.audit.exploits_sandbox import SANDBOX
from toolrl.audit.exploits_tools import TOOLS
from toolrl.audit.exploits_transcript import FORGERIES, WITHHELD

FAMILIES = (ANSWERS, VALUES, NEARBY, WITHHELD, FORGERIES, TOOLS, MEMORY, SANDBOX, CODE)


def catalogue() -> tuple[Exploit, ...]:
    """All exploits, in the order in which they are played."""
    return (*(exploit for family in FAMILIES for exploit in family.exploits), *registered())
