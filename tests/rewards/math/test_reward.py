"""Promises about mathematical answers: equality, dumps that earn nothing, and workers that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import ConfigError, Episode, InfrastructureError, Task, ToolCall, ToolResult
from toolrl.rewards import MathVerifier, math_reward, verify_math

pytest.importorskip("math_verify", reason="the extra `math` is not installed")

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(workers=1)
    yield verifier
    verifier.close()


@pytest.fixture
def own() -> Iterator[MathVerifier]:
    """A verifier whose workers a test may kill."""
    verifier = MathVerifier(workers=1, seconds=1.0)
    yield verifier
    verifier.close()


EQUAL = [
    (r"\frac{1}{2}", ["1/2", "0.5", ".5", r"\dfrac{1}{2}", r"\tfrac12", r"\frac 1 2", r"\frac{2}{4}", " 1 / 2 "]),
    (r"-\frac{1}{2}", [r"\frac{-1}{2}", "-0.5", "−1/2", r"-\left(\frac{1}{2}\right)"]),
    ("1234567", ["1,234,567", r"1{,}234{,}567", r"1\,234\,567", "1234567.0", "1234567."]),
    ("18", ["$18$", "18 dollars", r"\$18", r"\(18\)", r"\boxed{18}", r"x = \boxed{18}", "18 apples"]),
    (r"50\%", ["50%", "0.5", r"\frac{1}{2}", "50 percent"]),
    ("90", [r"90^\circ", "90°", "90 degrees", r"90^{\circ}", r"\angle ABC = 90^\circ"]),
    ("5 cm", ["5 cm", r"5\text{ cm}", "50 mm", "5", r"5\,\text{cm}"]),
    ("x=4", ["4", "x = 4", "x=4"]),
    ("4", ["x=4", "4.0", "2+2", r"\text{4}", "(4)", "+4", r"\sqrt{16}", "sqrt(16)", "x = 8/2 = 4", "|4|", "f(x) = 4"]),
    ("1, 3", ["3,1", "1 and 3", "x=1, x=3", "x = 1 or x = 3", r"\{3, 1\}", r"1 \text{ or } 3", "x = 1, 3"]),
    (r"\{1,2\}", [r"\{2, 1\}", r"\left\{1,2\right\}", "1, 2"]),
    ("(1,2]", ["(1, 2]", r"\left(1,2\right]", r"x \in (1,2]"]),
    (r"(-\infty,1)\cup(3,4)", [r"(3,4) \cup (-\infty, 1)", "(-∞,1)∪(3,4)"]),
    ("x^2+2x+1", ["(x+1)^2", "1 + 2x + x^2", "x**2 + 2*x + 1"]),
    (r"2\pi", ["2π", r"\pi \cdot 2", "2*pi"]),
    ("10^6", ["1000000", "1e6", "10**6"]),
    (r"1\frac{1}{2}", ["3/2", "1.5", "1 1/2"]),
    ("3+4i", ["4i+3", "3 + 4i"]),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", [r"\begin{bmatrix}1\\2\end{bmatrix}"]),
    (r"\text{Evelyn}", ["Evelyn", r"\text{evelyn}", "Evelyn."]),
    ("C", ["(C)", r"\text{(C)}", r"\text{C}"]),
    ("y=2x+1", ["y = 2x + 1", "2x+1", "y-2x=1"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answers"), EQUAL, ids=[gold for gold, _ in EQUAL])
def test_equal_answers_are_right_in_any_notation(verifier: MathVerifier, gold: str, answers: list[str]) -> None:
    assert [answer for answer in [gold, *answers] if not verify_math(answer, gold, verifier).equal] == []


WRONG = [
    ("4", ["5", "-4", "4i", "4x", "x", "", " ", "four", "not 4", "the answer is 4", "44", "<4", "x<4", r"\ne 4"]),
    # Dumps: several answers, one of which is right.
    ("4", ["3, 4", "1,2,3,4", "3 or 4", r"3 \text{ or } 4", r"\{3,4\}", "3;4", "x=3, x=4", r"4 \pm 1", "3 4"]),
    # math-verify takes the last formula, which is right.
    ("4", ["3=4", "1=2=3=4", "x=3=4", "3=x=4", "5=5=4", "3;=4", r"3 \to 4", r"3 \Rightarrow 4", r"3 \implies x=4"]),
    ("4", [r"3 \\ 4", r"x=3 \\ x=4", "3 | 4", r"3 \equiv 4", r"3 \quad 4", r"3, \boxed{4}", r"\boxed{3}\boxed{4}"]),
    ("4", [r"4\text{ or five}", r"4\text{, perhaps}", r"4\text{i}", "3} 4 {", "4}", r"3} \boxed{4", "$3$ $4$"]),
    (r"\frac{1}{2}", [r"\frac{2}{1}", "0.51", "1/3", "-1/2", "1, 2"]),
    ("1/3", ["0.33", "0.3"]),
    ("50%", ["0.05", "5%", "500"]),
    ("5 cm", ["5 m", "5 kg", "6 cm", "0.05"]),
    ("1, 3", ["1", "3", "1, 3, 5", "x=1", "5=1, 7=3", "x=1, y=3"]),
    ("(1,2)", ["(2,1)", "[1,2]", "(1,2]", r"\{1,2\}"]),
    (r"\text{Evelyn}", ["Eevlyn", "Alice", "Evelyn or Alice", "nylevE"]),
    ("C", ["A", "A, C", r"\text{(A) or (C)}", "D"]),
    ("y=2x+1", ["y=2x", "y=2x=2x+1", "x=2y+1"]),
    ("x^2", ["2x", "x^3", "x^2+1"]),
    (r"\infty", ["0", r"-\infty", "10^{10}"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answers"), WRONG, ids=[f"{gold}-{i}" for i, (gold, _) in enumerate(WRONG)])
def test_wrong_answers_and_dumps_of_answers_earn_nothing(verifier: MathVerifier, gold: str, answers: list[str]) -> None:
    assert [answer for answer in answers if verify_math(answer, gold, verifier).equal] == []


fractions = st.tuples(st.integers(-999, 999), st.integers(1, 99))


@settings(max_examples=10)
@given(value=fractions, factor=st.integers(1, 9), pad=st.sampled_from(["", " ", "\n", r"\, "]))
def test_harmless_edits_of_a_fraction_stay_right_and_a_changed_one_is_wrong(
    verifier: MathVerifier, value: tuple[int, int], factor: int, pad: str
) -> None:
    top, bottom = value
    gold = rf"\frac{{{top}}}{{{bottom}}}"
    wider = rf"\dfrac{{{top * factor}}}{{{bottom * factor}}}"
    same = [f"{top}/{bottom}", wider, rf"\left({wider}\right)", f"x{pad}={pad}{wider}", rf"\boxed{{{pad}{wider}}}"]
    assert [answer for answer in same if not verify_math(answer, gold, verifier).equal] == []
    changed = [f"{top + 1}/{bottom}", rf"{top + 1} \to {wider}", f"{top + bottom}={wider}", f"{wider}, {top + bottom}"]
    assert [answer for answer in changed if verify_math(answer, gold, verifier).equal] == []


@settings(max_examples=25)
@given(
    gold=st.sampled_from([gold for gold, _ in EQUAL]),
    answer=st.sampled_from([answer for _, answers in EQUAL for answer in answers if "$" not in answer]),
)
def test_an_answer_that_math_verify_rejects_is_right_only_where_we_read_more(
    verifier: MathVerifier, gold: str, answer: str
) -> None:
    """Compare all pairs of the table: additional notations are listed there with their value."""
    import math_verify

    wanted = math_verify.parse(rf"\boxed{{{gold}}}", parsing_timeout=None)
    given = math_verify.parse(rf"\boxed{{{answer}}}", parsing_timeout=None)
    theirs = math_verify.verify(wanted, given, timeout_seconds=None)
    ours = verify_math(answer, gold, verifier).equal
    if ours != theirs:
        listed = any(gold == right and answer in answers for right, answers in EQUAL)
        units = "5 cm" in (gold, answer) or "cm" in answer or "mm" in answer
        reread = any(
            mark in answer for mark in ("°", "**", "pi", "1e6", "1 1/2", "sqrt(", "Evelyn", "evelyn", r"\,", ".")
        )
        assert listed or units or reread, (gold, answer, theirs)


# ---- the reward


def episode(answer: str | None, calls: int = 0) -> Episode:
    return Episode(answer, tuple(ToolResult(ToolCall("python"), "") for _ in range(calls)))


def test_the_reward_reads_tags_and_boxes_and_charges_only_right_answers(verifier: MathVerifier) -> None:
    reward, task = math_reward(call_cost=0.1, verifier=verifier), Task("t", "?", r"\frac{1}{2}")
    assert reward(task, episode("<answer>0.5</answer>")).value == 1.0
    right = reward(task, episode(r"So $\boxed{0.5}$", calls=2))
    assert (right.value, right.success, right.answer) == (pytest.approx(0.8), True, "0.5")
    assert reward(task, episode("<answer>0.6</answer>", calls=2)).value == 0.0


@pytest.mark.parametrize("text", [None, "", "0.5", r"\boxed{0.5} \boxed{0.6}", r"<answer>0.5</answer> \boxed{1}"])
def test_without_one_answer_there_is_no_reward(verifier: MathVerifier, text: str | None) -> None:
    score = math_reward(verifier=verifier)(Task("t", "?", "0.5"), episode(text))
    assert (score.value, score.answer, score.parts["answered"]) == (0.0, None, 0.0)


def test_one_of_several_expected_answers_is_enough(verifier: MathVerifier) -> None:
    assert verify_math("7", ["6", "7"], verifier).equal
    assert not verify_math("6, 7", ["6", "7"], verifier).equal
    assert verify_math("7", 7, verifier).equal


def test_invalid_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match="call cost must be >= 0"):
        math_reward(call_cost=-1)
    with pytest.raises(ConfigError, match="forms must be a list"):
        math_reward(forms=["box"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="seconds, wall_seconds and workers must be positive, got 0, "):
        MathVerifier(seconds=0)


# ---- the processes


def test_an_endless_comparison_makes_the_answer_wrong_and_the_next_answer_is_compared(own: MathVerifier) -> None:
    score = math_reward(verifier=own)(Task("t", "?", "4"), episode(rf"\boxed{{{ENDLESS}}}"))
    assert (score.value, score.reason) == (0.0, "took longer than 1 s to compare")
    assert verify_math("4.0", "4", own).equal


def test_comparisons_work_and_time_out_off_the_main_thread(own: MathVerifier) -> None:
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.extend(verify_math(a, "4", own) for a in (ENDLESS, "8/2")))
    thread.start()
    thread.join()
    assert [verdict.equal for verdict in verdicts] == [False, True]
    assert "took longer" in verdicts[0].reason


def signal_when_busy(verifier: MathVerifier, number: signal.Signals, times: int) -> threading.Thread:
    """Send a signal to the next `times` workers, each once it is busy with a request."""

    def run() -> None:
        done: set[int] = set()
        while len(done) < times:
            for pid in verifier.pids:
                if pid not in done and verifier.is_busy(pid):
                    done.add(pid)
                    os.kill(pid, number)
            time.sleep(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_worker_killed_once_during_a_comparison_is_replaced_and_the_verdict_stands() -> None:
    verifier = MathVerifier(workers=1, seconds=1.0)
    thread = signal_when_busy(verifier, signal.SIGKILL, times=1)
    try:
        assert "took longer" in verify_math(ENDLESS, "4", verifier).reason  # from the second worker
        assert verify_math("4.0", "4", verifier).equal
    finally:
        thread.join()
        verifier.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_worker_killed_or_frozen_twice_leaves_the_answer_unscored(number: signal.Signals) -> None:
    verifier = MathVerifier(workers=1, seconds=60.0, wall_seconds=3.0)
    thread = signal_when_busy(verifier, number, times=2)
    try:
        with pytest.raises(InfrastructureError, match="the math verifier failed twice: a worker"):
            verify_math(ENDLESS, "4", verifier)
        thread.join()
        assert verify_math("4.0", "4", verifier).equal
        assert len(verifier.pids) == 1
    finally:
        verifier.close()


def test_workers_are_reused_and_shared_by_many_threads(verifier: MathVerifier) -> None:
    verify_math("4.0", "4", verifier)
    before = verifier.pids
    verdicts: list[tuple[int, bool]] = []
    threads = [
        threading.Thread(target=lambda n=n: verdicts.append((n, verify_math(f"{n}.0", "3", verifier).equal)))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == [(n, n == 3) for n in range(6)]
    assert verifier.pids == before


def test_closing_ends_the_processes_and_the_next_comparison_starts_new_ones(own: MathVerifier) -> None:
    assert verify_math("4.0", "4", own).equal
    (pid,) = own.pids
    own.close()
    assert own.pids == []
    assert not is_running(pid)
    assert verify_math("4.0", "4", own).equal


@pytest.mark.parametrize(("number", "busy"), [(signal.SIGINT, True), (signal.SIGKILL, False), (signal.SIGKILL, True)])
def test_no_process_outlives_the_program(number: signal.Signals, busy: bool) -> None:
    program = f"""
import threading, time
from toolrl.rewards import MathVerifier, verify_math
verifier = MathVerifier(workers=1, seconds=1)
verify_math("4.0", "4", verifier)
print(verifier.pids[0], flush=True)
if {busy}:
    verify_math({ENDLESS!r}, "4", verifier)
time.sleep(100)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        process.wait()
    while is_running(pid):  # within the CPU time of a request; the test's own timeout bounds it
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_forked_child_has_workers_of_its_own(own: MathVerifier) -> None:
    assert verify_math("4.0", "4", own).equal
    child = os.fork()
    if child == 0:
        os._exit(0 if own.pids == [] and verify_math("5.0", "5", own).equal and (own.close() or True) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert verify_math("4.0", "4", own).equal
