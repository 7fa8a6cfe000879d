"""Runs a program against its tests: inputs enter a sandbox one by one, and replies are only claims."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from toolrl.rewards.code import keeper as code_keeper, proxy as code_proxy, runner as code_runner
from toolrl.rewards.code.leftovers import leaves_nothing
from toolrl.rewards.code.suite import AssertTest, CallTest, CodeSuite, CodeTest, StdioTest
from toolrl.rewards.code.values import Comparison, near, same_output, same_value
from toolrl.sandbox import (
    ExecResult,
    LocalSandbox,
    Sandbox,
    SandboxFactory,
    SandboxLimits,
    Session,
    open_sandbox,
)
from toolrl.sandbox.local.launcher import preload

TEST_SECONDS = 3.0
TOTAL_SECONDS = 15.0
_MAX_CALLS = 10_000  # of one `AssertTest`
_SPARE_CHARACTERS = 8192
_MAX_ASSERTED_CHARACTERS = 65536  # of one value that is passed to assertions
# All calls of a program that leaves nothing behind are tried in one run of at most this long. Nothing depends on it: if
# the replies do not come whole, the calls are made one by one.
_TOGETHER_SECONDS = 0.5
_MAX_KILLS = 3  # timeouts and dead processes of one program; each costs a new process, and seconds
# Longer values are cut and then do not parse, so oversized values are wrong.
LIMITS = SandboxLimits(seconds=TEST_SECONDS, output_characters=200_000)
_HELPERS = {"_toolrl_runner": code_runner, "_toolrl_keeper": code_keeper}
for _name, _module in _HELPERS.items():
    preload(_name, _module.__name__)


class UngradableTest(ValueError):
    """An assertion passes objects that cannot leave its process, so it cannot be graded safely."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """The outcome of one test.

    Attributes:
        passed: Whether the program passed.
        reason: Why it failed; empty if it passed. Never contains the expected value.
        ended: Whether the program ended its process, or raised SystemExit instead of returning a value.
    """

    __test__ = False  # not a test class for pytest

    passed: bool
    reason: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """The outcomes of all tests of a program, in the order of the suite."""

    visible: Sequence[TestOutcome]
    hidden: Sequence[TestOutcome]

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return all(outcome.passed for outcome in (*self.visible, *self.hidden))


@dataclass
class _Run:
    """A program in its sandbox, with the time it has left."""

    session: Session
    prelude: str
    code: str
    shares_process: bool  # tests may run one after another in one process
    seconds_left: float
    test_seconds: float
    helpers: str
    is_local: bool
    loaded: bool = False
    kills: int = 0
    broken: str = ""  # why the remaining tests cannot pass
    known: dict[str, dict[str, Any]] = field(default_factory=dict)  # replies of calls that were made together

    def try_together(self, calls: Sequence[str]) -> None:
        """Make calls in one run. Unless all of them reply, it is as if nothing had been tried."""
        call = self._with_program(f"_candidate.calls({', '.join(calls)})")
        result = self.session.run(call, timeout_seconds=min(self.test_seconds, _TOGETHER_SECONDS))
        self.loaded = result.error is None
        with contextlib.suppress(*code_runner.MALFORMED):
            replies = json.loads(result.value or "")
            if self.loaded and len(replies) == len(calls) and all(map(_is_reply, replies)):
                self.known = dict(zip(calls, replies, strict=True))
                self.seconds_left -= result.seconds

    def ask(self, call: str) -> tuple[dict[str, Any], ExecResult | None]:
        """Evaluate an expression: the reply, {"error": ...} if there was none, and the run that it came from."""
        if self.broken or self.seconds_left <= 0:
            return {"error": self.broken or "out of time"}, None
        result = self.session.run(self._with_program(call), timeout_seconds=min(self.test_seconds, self.seconds_left))
        self.seconds_left -= result.seconds
        if result.error is not None:
            killed = result.error.name in ("TimeoutError", "SandboxDied")
            self.kills += killed
            if self.kills == _MAX_KILLS or not (killed or self.loaded):
                self.broken = result.error.name
            self.loaded = self.loaded and not killed
            return {"error": result.error.name}, result
        self.loaded = True
        try:
            reply = json.loads(result.value or "")
        except code_runner.MALFORMED:
            reply = None
        if not _is_reply(reply):
            reply = {"error": "a value too large" if "output" in result.limits_hit else "no reply"}
        return reply, result

    def _with_program(self, call: str) -> str:
        """The call, after what loads the program if that is still to be done."""
        if self.loaded:
            return call
        given = f"{self.prelude!r}, {self.code!r}, os.getcwd()"
        made = f"_candidate = Candidate({given})"
        if not self.shares_process:
            made = f"_candidate = KeptCandidate({given}, {not self.is_local})"
        return "\n".join([self.helpers, made, call])


def _is_reply(reply: Any) -> bool:
    return isinstance(reply, dict) and ("error" in reply or isinstance(reply.get("value"), str))


def _helpers(place: Sandbox) -> str:
    """Code that defines what the helper modules define: most local sandboxes hold them already."""
    held = isinstance(place, LocalSandbox) and _HELPERS.keys() <= place.held_modules
    return "\n".join(f"from {name} import *" if held else _text(module) for name, module in _HELPERS.items())


@cache
def _text(module: ModuleType) -> str:
    """The text of a helper module, without its imports of others, which are sent before it."""
    lines = Path(module.__file__ or "").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("from toolrl"))


def _with_room(limits: SandboxLimits, suite: CodeSuite) -> SandboxLimits:
    """The limits, with room for the longest right answer; a power of two, since spare sandboxes match by limits."""
    longest = 0
    for test in (*suite.visible, *suite.hidden):
        if isinstance(test, StdioTest):
            longest = max(longest, len(test.stdout))
        elif isinstance(test, CallTest):
            longest = max(longest, len(code_runner.encode(test.expected)))
    if 4 * longest <= limits.output_characters:
        return limits
    return replace(limits, output_characters=1 << (4 * longest).bit_length())


def grade_code(
    code: str,
    suite: CodeSuite,
    *,
    sandbox: str | SandboxFactory = "local",
    limits: SandboxLimits = LIMITS,
    test_seconds: float = TEST_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
) -> SuiteOutcome:
    """Run a program against all tests of a suite, in one sandbox.

    Args:
        code: The program.
        suite: Its tests.
        sandbox: Name of a registered backend, or a factory called with the limits.
        limits: Limits of the program, except its time.
        test_seconds: Wall-clock limit of one test, and of loading the program.
        total_seconds: Wall-clock limit of all tests together; tests beyond it fail.

    Raises:
        SandboxFault: A sandbox failed, not caused by the program.
        UngradableTest: An assertion cannot be graded.
    """
    with open_sandbox(sandbox, _with_room(limits, suite)) as place:
        tests = (*suite.visible, *suite.hidden)
        kinds = {isinstance(test, StdioTest) for test in tests}
        shared = all(leaves_nothing(code, suite.prelude, is_run=is_run) for is_run in kinds)
        is_local = isinstance(place, LocalSandbox)
        run = _Run(place, suite.prelude, code, shared, total_seconds, test_seconds, _helpers(place), is_local)
        calls = [_call_of(test) for test in tests if isinstance(test, CallTest)]
        if shared and len(calls) > 1:
            run.try_together(calls)
        outcomes = [_outcome(test, run, suite.comparison, sandbox) for test in tests]
    return SuiteOutcome(outcomes[: len(suite.visible)], outcomes[len(suite.visible) :])


def _outcome(test: CodeTest, run: _Run, comparison: Comparison, sandbox: str | SandboxFactory) -> TestOutcome:
    if isinstance(test, StdioTest):
        return _run_program(test, run, comparison)
    if isinstance(test, CallTest):
        return _run_call(test, run, comparison)
    return _run_assertions(test, run, sandbox)


def _call_of(test: CallTest) -> str:
    return f"({test.function!r}, {code_runner.encode([list(test.args), dict(test.kwargs)])!r})"


def _failed(reply: dict[str, Any]) -> TestOutcome:
    error = str(reply.get("error", "no reply"))[:80]
    return TestOutcome(False, error, ended=error in ("SystemExit", "SandboxDied"))


def _run_call(test: CallTest, run: _Run, comparison: Comparison) -> TestOutcome:
    call = _call_of(test)
    reply = run.known.get(call) or run.ask(f"_candidate.call{call}")[0]
    if "error" in reply:
        return _failed(reply)
    # Bounded, since decoding a crafted set can take very long.
    if len(reply["value"]) > 4 * len(code_runner.encode(test.expected)) + _SPARE_CHARACTERS:
        return TestOutcome(False, "a value too large")
    try:
        given = code_runner.decode(reply["value"])
        if test.tolerance is not None:
            passed = near(given, test.expected, test.tolerance, test.relative)
        else:
            passed = same_value(given, test.expected, Comparison() if test.identical else comparison)
    except code_runner.MALFORMED:
        return TestOutcome(False, "not a plain value")
    return TestOutcome(passed, "" if passed else "another value")


def _run_program(test: StdioTest, run: _Run, comparison: Comparison) -> TestOutcome:
    reply, result = run.ask(f"_candidate.run({test.stdin!r})")
    if result is None or "error" in reply:
        return _failed(reply)
    if "output" in result.limits_hit:
        return TestOutcome(False, "too much output")
    passed = same_output(result.stdout, test.stdout, comparison)
    return TestOutcome(passed, "" if passed else "another output")


def _run_assertions(test: AssertTest, run: _Run, sandbox: str | SandboxFactory) -> TestOutcome:
    start = f"_test = Assertions({test.setup!r}, {test.code!r}, {[test.function, test.alias]!r})\n_test.step()"
    with open_sandbox(sandbox, LIMITS) as place:
        text = "\n".join([_helpers(place), _text(code_proxy), start])
        for number in range(_MAX_CALLS):
            result = place.run(text, timeout_seconds=run.test_seconds)
            if result.error is not None or result.value is None:
                return TestOutcome(False, f"the test itself: {result.error.name if result.error else 'no verdict'}")
            said = json.loads(result.value)
            if "live" in said:
                raise UngradableTest(f"a test of {test.function!r} has an argument that is {said['live']}")
            if "call" not in said:
                return TestOutcome(said["verdict"], "" if said["verdict"] else said["error"])
            reply = run.ask(f"_candidate.call({test.function!r}, {said['call']!r}, {number == 0}, False)")[0]
            if run.broken or run.seconds_left <= 0:
                return _failed(reply)
            text = f"_test.step({json.dumps(_checked(reply))!r})"
    return TestOutcome(False, f"more than {_MAX_CALLS} calls")


def _checked(reply: dict[str, Any]) -> dict[str, str]:
    """A claim that is safe to enter the test's process: a plain value, encoded again here, or the name of an error."""
    if "error" not in reply:
        try:
            if len(reply["value"]) > _MAX_ASSERTED_CHARACTERS:
                raise ValueError("a value too large")
            return {"value": code_runner.encode(code_runner.decode(reply["value"]))}
        except code_runner.MALFORMED:
            reply = {"error": "TypeError"}
    return {"error": str(reply["error"])[:80]}
