"""Every registered environment passes its check and its audit, on a small sample; `make audit` runs them in full."""

from __future__ import annotations

import pytest

from toolrl import MissingExtra, make
from toolrl.audit import audit_environment, check_environment
from toolrl_envs import ENTRY_POINTS

SIZE = 60
SIZES = {"toolrl/Terminal-v0": 1}  # in the check
SLOW = ("toolrl/CodeTests-v0", "toolrl/Terminal-v0")  # a sandbox or more for each of the catalogue's episodes


@pytest.fixture(params=list(ENTRY_POINTS))
def env_id(request: pytest.FixtureRequest) -> str:
    """Each environment whose packages are installed."""
    try:
        make(request.param, size=1).close()
    except MissingExtra as error:
        pytest.skip(str(error))
    return str(request.param)


def test_it_passes_the_check(env_id: str) -> None:
    report = check_environment(env_id, tasks=5, settings={"size": SIZES.get(env_id, SIZE)})
    report.assert_passed()
    assert {result.status for result in report.results} == {"passed"}


@pytest.mark.parametrize(
    "env_id", [pytest.param(id, marks=[pytest.mark.slow] * (id in SLOW)) for id in ENTRY_POINTS], indirect=True
)
def test_it_pays_no_exploit(env_id: str) -> None:
    report = audit_environment(env_id, tasks=2, settings={"size": SIZE, "split": "test"}, slow=False)
    report.assert_passed()
    assert sum(bool(outcome.attempts) for outcome in report.outcomes) >= 40
    assert all(outcome.unscored == 0 for outcome in report.outcomes)
