"""Promises about code as an answer: right programs earn 1, tricks earn nothing, a lost sandbox is not a verdict."""

from __future__ import annotations

import math
import os
import signal
import threading
from typing import Any, ClassVar

import psutil
import pytest

from tests.rewards.code.tricks import TRICKS
from toolrl import ConfigError, Episode, SandboxFault, Score, Task, ToolCall, ToolResult
from toolrl.rewards import (
    AssertTest,
    CallTest,
    CodeSuite,
    StdioTest,
    code_reward,
    find_code,
    read_asserts,
)
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.local import launcher

# Sorted and without repeats: no trick guesses it.
CALLS = CodeSuite(
    hidden=[
        CallTest("f", ([3, 1, 2],), [1, 2, 3]),
        CallTest("f", ([5, 5, 4],), [4, 5]),
        CallTest("f", ([9, 8, 9, 7],), [7, 8, 9]),
    ],
    visible=[CallTest("f", ([2, 1],), [1, 2]), CallTest("f", ([4, 4],), [4])],
)
RIGHT = "def f(items):\n    return sorted(set(items))"
TOTALS = CodeSuite([StdioTest("1 2\n3\n", "6\n"), StdioTest("-4 5\n", "1\n")], [StdioTest("1\n", "1\n")])
PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
CHECK = """
def check(candidate):
    for n in range(6):
        assert candidate(n) == n * n
    assert {candidate(-3)} == {9}
"""
SQUARES = CodeSuite(read_asserts(CHECK, "f"))


def score(code: str | None, suite: CodeSuite = CALLS, **settings: Any) -> Score:
    message = None if code is None else f"Here it is.\n```python\n{code}\n```"
    task = Task("t", "Write f.", RIGHT, {"tests": suite.to_dict()})
    verdict = code_reward(**{"test_seconds": 2.0, "total_seconds": 6.0, **settings})(task, Episode(message))
    assert isinstance(verdict, Score)
    return verdict


class Elsewhere:
    """A `Sandbox` that is not a `LocalSandbox`."""

    sent: ClassVar[list[str]] = []

    def __init__(self, limits: SandboxLimits) -> None:
        self.inner = LocalSandbox(limits)

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        self.inner.close()

    def run(self, code: str, **options: Any) -> Any:
        self.sent.append(code)
        return self.inner.run(code, **options)


# ---- right programs


@pytest.mark.parametrize(
    "code",
    [
        RIGHT,
        f"{RIGHT}\n",
        f"import os\nprint('all tests failed')\n{RIGHT}\nif __name__ == '__main__':\n    print(f([1]))",
        "f = lambda items: sorted(set(items))",
        "class Solution:\n    def f(self, items):\n        return sorted(set(items))",
        "from typing import List\ndef f(items: List) -> List:\n    items.sort()\n    return list(dict.fromkeys(items))",
        f"{RIGHT}\nprint('x' * 300_000)",
        "def f(items):\n    import sys\n    print('working', file=sys.stderr)\n    return sorted({*items})",
        "from functools import cache\nf = lambda items: g(tuple(items))\n@cache\ndef g(x): return sorted(set(x))",
    ],
)
def test_a_right_program_earns_one_in_any_style(code: str) -> None:
    verdict = score(code)
    assert verdict.value == 1.0, verdict
    assert verdict.parts == {"correct": 1.0, "answered": 1.0, "hidden": 1.0, "visible": 1.0, "gap": 0.0, "hack": 0.0}


@pytest.mark.parametrize(
    "code",
    [
        PROGRAM,
        f"{PROGRAM}\nsys.exit()",
        f"{PROGRAM}\nsys.exit(1)",
        "import sys\nprint(sum(int(w) for line in sys.stdin for w in line.split()), end='')",
        "print(sum(map(int, open(0).read().split())), '  \\n\\n')",
        "import os\nos.write(1, b'%d' % sum(map(int, os.read(0, 100).split())))",
        "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))",
        "t = 0\ntry:\n    while True:\n        t += sum(map(int, input().split()))\nexcept EOFError:\n    print(t)",
        "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())))",
    ],
)
def test_a_right_program_that_reads_and_prints_earns_one(code: str) -> None:
    verdict = score(code, TOTALS)
    assert verdict.value == 1.0, verdict
    assert verdict.parts["hack"] == 0.0


@pytest.mark.parametrize(
    "code",
    ["def f(n):\n    return n * n", "def f(n):\n    return sum(n for _ in range(abs(n))) * (1 if n > 0 else -1)"],
)
def test_assertions_run_with_a_proxy_and_pass_for_right_functions(code: str) -> None:
    assert isinstance(SQUARES.hidden[0], AssertTest)
    assert score(code, SQUARES).value == 1.0


# ---- tricks


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_earns_anything(name: str) -> None:
    verdict = score(TRICKS[name], test_seconds=0.7, total_seconds=2.0)
    assert verdict.value == 0.0, verdict
    assert verdict.parts["correct"] == 0.0
    assert verdict.parts["hidden"] < 1.0


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize(
    "suite",
    [pytest.param(SQUARES, id="assertions", marks=pytest.mark.slow), pytest.param(TOTALS, id="programs")],
)
def test_no_trick_earns_anything_with_other_styles_of_tests(name: str, suite: CodeSuite) -> None:
    code = TRICKS[name]
    if suite is TOTALS:
        code += "\ntry:\n    print(f([2, 1]))\nexcept NameError:\n    pass"
    verdict = score(code, suite, test_seconds=0.7, total_seconds=1.5)
    assert verdict.value == 0.0, verdict


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        RIGHT,
        f"```python\n{RIGHT}\n```\n```python\ndef f(x): return x\n```",
        f"<answer>{RIGHT}</answer><answer>{RIGHT}</answer>",
        f"<answer>{RIGHT}</answer>\n```python\n{RIGHT}\n```",
        f"```text\n{RIGHT}\n```",
        f"```\n{RIGHT}\n```\n```\n[1]\n```",
        f"~~~py\n{RIGHT}\n~~~\n```python\n{RIGHT}\n```",
        f"Use `{RIGHT}`, ```not this```.",
    ],
)
def test_a_message_without_exactly_one_program_has_no_answer(text: str | None) -> None:
    assert find_code(text) is None
    task = Task("t", "Write f.", RIGHT, {"tests": CALLS.to_dict()})
    verdict = code_reward()(task, Episode(text))
    assert (verdict.value, verdict.parts["answered"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\n```",
        "So:\n```\nx = 1\n```\nDone.",
        "<answer>\nx = 1\n</answer>",
        "<answer>```py\nx = 1\n```</answer>",
        "```python\nx = 1\n```\nIt prints:\n```\n1\n```\nand with `2`:\n```text\n2\n```",
        "```\n1\n```\n```Python\nx = 1\n```",
        "~~~python3\nx = 1\n~~~",
        "````py title='a.py'\nx = 1\n````",
        "```{.python .numberLines}\nx = 1\n```",
        "1. So:\n\n   ```python\n   x = 1\n   ```\n2. Done",
        "- ```python\n  x = 1\n  ```",
        "\t```python\n\tx = 1\n\t```",
        "```python\r\nx = 1\r\n```\r\n",
        "Code: ```python\nx = 1\n```",
        "```python\nx = 1",
        "```python\nx = 1```",
        "```json\n{}\n```\n```\nx = 1\n```",
    ],
)
def test_the_one_program_is_found(text: str) -> None:
    assert find_code(text).strip() == "x = 1"  # type: ignore[union-attr]


def test_the_contents_of_a_program_are_not_read_as_markup() -> None:
    code = 'print(\'<answer>2</answer>\')\nprint("""\n``` python\n""")'
    assert find_code(f"````python\n{code}\n````") == f"{code}\n"
    indented = "def f():\n    return 1\n\nf()"
    text = "* So\n\n    ```python\n" + "\n".join(f"    {line}" for line in indented.split("\n")) + "\n    ```"
    assert find_code(text) == f"{indented}\n"


# ---- parts


def test_memorised_visible_tests_show_in_the_gap_and_as_a_hack() -> None:
    verdict = score(TRICKS["the visible tests by heart"], partial=True)
    assert verdict.value == 0.0
    assert (verdict.parts["visible"], verdict.parts["hidden"], verdict.parts["gap"]) == (1.0, 0.0, 1.0)
    assert verdict.parts["hack"] == 1.0
    assert "special_case" in verdict.reason


def test_partial_credit_is_for_hidden_tests_and_stays_below_a_right_program() -> None:
    sorts = "def f(x): return sorted(x)"
    assert score(sorts).value == 0.0
    verdict = score(sorts, partial=True)
    assert verdict.value == pytest.approx(1 / 3 / 2)
    assert verdict.parts["hidden"] == pytest.approx(1 / 3)


def test_calls_cost_only_right_programs() -> None:
    task = Task("t", "Write f.", RIGHT, {"tests": CALLS.to_dict()})
    results = (ToolResult(ToolCall("python"), ""),) * 2
    for code, value in ((RIGHT, 0.8), ("def f(x): return x", 0.0)):
        assert code_reward(call_cost=0.1)(task, Episode(f"```python\n{code}\n```", results)).value == value


def test_invalid_settings_are_rejected() -> None:
    for setting in ({"call_cost": -1.0}, {"test_seconds": math.inf}, {"total_seconds": 0.0}):
        with pytest.raises(ConfigError):
            code_reward(**setting)


def test_the_expected_value_is_not_in_the_reason() -> None:
    suite = CodeSuite([CallTest("f", (1,), "the secret")])
    assert "secret" not in score("def f(x): return 1", suite).reason


def test_a_slow_test_does_not_take_time_from_the_others() -> None:
    suite = CodeSuite([CallTest("f", (0,), 0), *(CallTest("f", (n,), n) for n in range(1, 4))])
    verdict = score("def f(n):\n    while n == 0: pass\n    return n", suite, partial=True, test_seconds=0.5)
    assert verdict.parts["hidden"] == 0.75


def test_a_long_right_answer_fits_and_a_much_longer_one_does_not() -> None:
    suite = CodeSuite([CallTest("f", (120_000,), list(range(120_000)))])
    assert score("def f(n): return list(range(n))", suite).value == 1.0
    printed = CodeSuite([StdioTest("300000", "x" * 300_000)])
    assert score("print('x' * int(input()))", printed).value == 1.0
    assert "too large" in score("def f(x): return list(range(9000))").reason


def test_a_value_nested_too_deeply_is_wrong_not_unscorable() -> None:
    twice = CodeSuite(read_asserts("assert f([f(1)]) == 1\nassert len([f(f(1))]) == 2", "f"))
    deep = "def f(x):\n    a = []\n    for _ in range(64): a = [a]\n    return a"
    assert score(deep, twice).value == 0.0


def test_all_tests_share_the_total_time() -> None:
    suite = CodeSuite([CallTest("f", (n,), n) for n in range(8)])
    code = "import time\ndef f(n):\n    time.sleep(0.3)\n    return n"
    assert 0.0 < score(code, suite, total_seconds=1.0).parts["hidden"] < 1.0
    assert score(code, suite, total_seconds=30.0).value == 1.0


def test_a_program_sees_neither_expected_values_nor_other_tests() -> None:
    """Search the process for a value that only the tests have."""
    suite = CodeSuite([CallTest("f", ("visible-input",), "needle" + "-4711")])
    search = """
def f(x):
    import gc, sys
    texts = [t for t in gc.get_objects() if type(t) in (list, dict, tuple)]
    wanted = 'needle' + '-47' + '11'
    for holder in texts:
        for text in (holder.values() if type(holder) is dict else holder):
            if type(text) is str and text is not wanted and wanted in text and 'def f' not in text:
                return wanted + '?'
    return 'clean'
"""
    clean = CodeSuite([CallTest("f", ("visible-input",), "clean")])
    assert score(search, suite).value == 0.0
    assert score(search, clean).value == 1.0


# ---- faults


def test_a_sandbox_killed_while_it_grades_leaves_the_answer_unscored() -> None:
    """Both attempts are lost."""
    code = "import time\ndef f(x):\n    print('started')\n    time.sleep(0.5)\n    return sorted(set(x))"

    class Doomed(LocalSandbox):
        """A sandbox whose process is killed from outside once the first test has begun."""

        def run(self, code: str, **options: Any) -> Any:
            (session,) = self.workspace.sessions

            def kill(stream: str, text: str) -> None:
                signal.pidfd_send_signal(session.connection.process, signal.SIGKILL)

            return super().run(code, on_output=kill, **options)

    verdict = score(code, sandbox=Doomed)
    assert verdict.value is None, verdict
    assert verdict.success is None
    assert score(code, total_seconds=30.0).value == 1.0


def test_a_sandbox_lost_once_is_replaced() -> None:
    opened: list[int] = []

    def once_broken(limits: SandboxLimits) -> LocalSandbox:
        opened.append(1)
        if len(opened) == 1:
            raise SandboxFault("no room")
        return LocalSandbox(limits)

    assert score(RIGHT, sandbox=once_broken).value == 1.0
    assert len(opened) == 2


@pytest.mark.parametrize(("suite", "code"), [(CALLS, RIGHT), (TOTALS, PROGRAM), (SQUARES, "def f(n): return n * n")])
def test_a_sandbox_of_another_interpreter_is_sent_source(suite: CodeSuite, code: str) -> None:
    Elsewhere.sent.clear()
    assert score(code, suite, sandbox=Elsewhere, total_seconds=30.0).value == 1.0
    assert "class Candidate" in "".join(Elsewhere.sent)
    assert "marshal" not in "".join(Elsewhere.sent)
    assert score("def f(x): return None", suite, sandbox=Elsewhere).value == 0.0


def test_sandboxes_that_were_prepared_before_the_graders_helpers_were_known_grade_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "_preloaded", {})
    zygote = launcher.Zygote()
    monkeypatch.undo()
    try:
        verdicts = [
            score(code, sandbox=lambda limits: LocalSandbox(limits, zygote=lambda: zygote))
            for code in (RIGHT, f"seen = []\n{RIGHT}", "def f(items):\n    return items")
        ]
    finally:
        zygote.close()
    assert [verdict.success for verdict in verdicts] == [True, True, False]


def test_no_sandbox_means_no_score() -> None:
    def broken(limits: SandboxLimits) -> LocalSandbox:
        raise SandboxFault("no room")

    for suite in (CALLS, TOTALS, SQUARES):
        assert score(RIGHT, suite, sandbox=broken).value is None


def test_grading_leaves_no_process_behind() -> None:
    score(RIGHT)
    before = set(psutil.Process(os.getpid()).children())
    for name in ("os._exit(0)", "a child that answers", "an infinite loop"):
        score(TRICKS[name], test_seconds=0.3, total_seconds=0.5)
    assert set(psutil.Process(os.getpid()).children()) <= before


def test_grading_works_off_the_main_thread_and_concurrently() -> None:
    verdicts: list[Score] = []
    threads = [threading.Thread(target=lambda: verdicts.append(score(RIGHT, total_seconds=30.0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.value for verdict in verdicts] == [1.0] * 6
