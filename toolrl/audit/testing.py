"""A pytest class that checks and audits an environment in its author's own test suite.

    from toolrl.audit import EnvironmentTests

    class TestMyEnv(EnvironmentTests):
        environment = MyEnv

pytest then runs each check, and the audit, as a separate test.
"""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

from toolrl.audit.audit import audit_environment
from toolrl.audit.check import check_environment
from toolrl.audit.subject import Environment


class EnvironmentTests:
    """Subclass it under a name that starts with `Test`.

    Attributes:
        environment: An id, or a class or function that makes one; wrap a function in `staticmethod`.
        settings: For making the environment.
        check_tasks: How many tasks each check plays.
        audit_tasks: How many tasks each exploit is played on.
        slow_exploits: Whether to play exploits that wait for a time limit.
    """

    environment: ClassVar[Environment]
    settings: ClassVar[Mapping[str, Any]] = {}
    check_tasks: ClassVar[int] = 20
    audit_tasks: ClassVar[int] = 4
    slow_exploits: ClassVar[bool] = False

    def _check(self, name: str) -> None:
        report = check_environment(self.environment, tasks=self.check_tasks, settings=self.settings, only=[name])
        report.assert_passed()
        if report.results[0].status == "skipped":
            raise unittest.SkipTest(report.results[0].skipped)

    def test_it_keeps_gymnasiums_contract(self) -> None:
        """Gymnasium's `check_env` passes."""
        self._check("contract")

    def test_the_same_seed_gives_the_same_episode(self) -> None:
        """All randomness comes from the seed."""
        self._check("determinism")

    def test_its_tasks_have_unique_ids_and_usable_prompts(self) -> None:
        """Tasks are well-formed."""
        self._check("tasks")

    def test_train_and_test_share_nothing(self) -> None:
        """Splits are disjoint."""
        self._check("splits")

    def test_prompts_do_not_reveal_answers(self) -> None:
        """Answers are not in prompts."""
        self._check("prompts")

    def test_the_oracle_solves_its_tasks(self) -> None:
        """Tasks can be solved."""
        self._check("oracle")

    def test_worthless_answers_earn_nothing(self) -> None:
        """Empty, wrong and refusing answers earn nothing."""
        self._check("worthless")

    def test_its_tools_are_described_in_plain_text(self) -> None:
        """A model can read what the tools say of themselves."""
        self._check("schemas")

    def test_comparing_episodes_does_not_put_wrong_above_right(self) -> None:
        """A right answer is worth more than a wrong one, compared with any others."""
        self._check("group_reward")

    def test_broken_calls_are_survived(self) -> None:
        """A model's mistakes raise nothing."""
        self._check("broken_calls")

    def test_it_releases_what_it_opens(self) -> None:
        """Nothing is left behind."""
        self._check("resources")

    def test_no_exploit_is_paid(self) -> None:
        """The audit finds no leak."""
        settings = self.settings
        audit_environment(
            self.environment, tasks=self.audit_tasks, settings=settings, slow=self.slow_exploits
        ).assert_passed()
