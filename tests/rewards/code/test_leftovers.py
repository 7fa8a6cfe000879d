# ruff: noqa: E501
"""Promises of isolated tests: whatever a program does to its process, the next test gets a fresh one."""

from __future__ import annotations

import pytest

from tests.rewards.code.test_reward import Elsewhere
from toolrl.rewards import AssertTest, CallTest, CodeSuite, StdioTest, grade_code
from toolrl.rewards.code.leftovers import leaves_nothing
from toolrl.sandbox import LocalSandbox

NEXT = CodeSuite([StdioTest(f"{n}\n{'x' * n}\n", f"{n + 1}\n") for n in range(3)])
SUCC = CodeSuite([CallTest("f", (n,), n + 1) for n in range(3)])
TWICE = CodeSuite([AssertTest("assert [f(1), f(1)] == [2, 3]", "f")] * 2)

PROGRAMS = {
    "stdin replaced": "import sys\nsys.stdin = open(0)\nprint(int(input()) + 1)",
    "stdin read by number": "print(int(open(0).readline()) + 1)",
    "stdin closed": "import sys, os\nprint(int(input()) + 1)\nsys.stdin.close()\nos.close(0)",
    "stdin detached": "import sys\nb = sys.stdin.detach()\nprint(int(b.readline()) + 1)",
    "stdin read by os": "import os\nprint(int(os.read(0, 99).split()[0]) + 1)",
    "stdin by path": "print(int(open('/dev/stdin').readline()) + 1)",
    "stdin mapped": "import mmap\nprint(int(mmap.mmap(0, 0, prot=mmap.PROT_READ).readline()) + 1)",
    "readline bound": "import sys\ninput = sys.stdin.readline\nprint(int(input()) + 1)",
    "buffer bound": "from sys import stdin\nprint(int(stdin.buffer.readline()) + 1)",
    "stdout wrapped": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(int(input()) + 1)",
    "stdout detached": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(int(input()) + 1)",
    "stdout kept back": "import sys, io\no = sys.stdout\nsys.stdout = b = io.StringIO()\nprint(int(input()) + 1)\n"
    "o.write(b.getvalue())",
    "stdout closed": "import sys, os\nprint(int(input()) + 1)\nsys.stdout.close()\nos.close(1)\nos.close(2)",
    "stdout replaced and left open": "import sys\nsys.stdout = open(1, 'w')\nprint(int(input()) + 1)",
    "a file of its own left open": "out = open(1, 'w')\nout.write(str(int(input()) + 1))\ndef f(): return out",
    "stdout reconfigured": "import sys\nsys.stdout.reconfigure(line_buffering=False)\nprint(int(input()) + 1)",
    "stdout made faulty": "import sys\nprint(int(input()) + 1, flush=True)\nsys.stdout = None",
    "print replaced": "import builtins\np = print\nbuiltins.print = lambda *a: p(*a, end='')\nprint(int(input()) + 1)",
    "a descriptor moved": "import os\nos.dup2(1, 7)\nos.write(7, b'%d' % (int(input()) + 1))\nos.dup2(2, 1)",
    "exit()": "print(int(input()) + 1)\nexit()",
    "quit()": "print(int(input()) + 1)\nquit(1)",
    "sys.exit()": "import sys\nprint(int(input()) + 1)\nsys.exit('done')",
    "os._exit()": "import os\nprint(int(input()) + 1, flush=True)\nos._exit(0)",
    "raise SystemExit": "print(int(input()) + 1)\nraise SystemExit",
    "an exit handler prints": "import atexit\nn = int(input())\natexit.register(print, n + 1)",
    "a thread prints": "import threading, time\ndef work():\n    n = int(input())\n    time.sleep(0.02)\n    print(n + 1)\n"
    "threading.Thread(target=work).start()",
    "a pool left open": "from concurrent.futures import ThreadPoolExecutor\nn = int(input())\n"
    "ThreadPoolExecutor(2).submit(lambda: print(n + 1))",
    "processes": "import multiprocessing\ndef g(n): return n + 1\nif __name__ == '__main__':\n"
    "    with multiprocessing.Pool(1) as pool: print(pool.map(g, [int(input())])[0])",
    "a child goes on printing": "import os, time\ntime.sleep(0.2)\nprint(int(input()) + 1, flush=True)\n"
    "if os.fork() == 0:\n    time.sleep(0.15)\n    while True:\n        print('noise', flush=True)\n        time.sleep(0.001)\n"
    "os._exit(0)",
    "a big stack": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
    "def depth(n): return n and depth(n - 1) + 1\ndef main(): print(depth(20000) - 19999 + int(input()))\n"
    "t = threading.Thread(target=main)\nt.start()\nt.join()",
    "recursion through a cache": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n"
    "@lru_cache(None)\ndef depth(n): return n and depth(n - 1) + 1\nprint(depth(30000) - 29999 + int(input()))",
    "many digits": "print(int(str(int('9' * 6000)), 10) - int('9' * 6000) + int(input()) + 1)",
    "a directory": "import os\nn = int(input())\nos.mkdir(f'd{n}')\nos.chdir(f'd{n}')\nprint(n + 1)",
    "a locale": "import locale\nlocale.setlocale(locale.LC_ALL, 'C')\nprint(int(input()) + 1)",
    "a signal": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: print('late'))\nprint(int(input()) + 1)\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.1)",
    "asyncio": "import asyncio\nasync def main(): print(int(input()) + 1)\nasyncio.run(main())",
    "modules changed": "import math\nn = math.floor(int(input()))\nmath.floor = len\nprint(n + 1)",
    "modules removed": "import sys, json\nprint(json.loads(input()) + 1)\nsys.modules.clear()",
    "builtins as a module": "\ufeffn = int(input())\n__builtins__.print(n + 1)\n__builtins__.print = None",
    "an import of __main__": "import __main__\nx = 1\nprint(int(input()) + __main__.x)",
    "a dataclass": "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n"
    "    n: int\nprint(A(int(input())).n + 1)",
}  # fmt: skip

FUNCTIONS = {
    "a counter": "count = 0\ndef f(n):\n    global count\n    count += 1\n    return n + count",
    "a default": "def f(n, seen=[]):\n    seen.append(n)\n    return n + len(seen)",
    "an attribute": "def f(n):\n    f.calls = getattr(f, 'calls', 0) + 1\n    return n + f.calls",
    "a class's attribute": "class Solution:\n    seen = []\n    def f(self, n):\n        self.seen.append(n)\n"
    "        return n + len(self.seen)",
    "another name of a class": "class A: seen = 0\ndef f(n):\n    b = A\n    b.seen += 1\n    return n + A.seen",
    "a class as an argument": "class A: seen = 0\ndef up(b): b.seen += 1\ndef f(n):\n    up(A)\n    return n + A.seen",
    "a class of an object": "class A:\n    seen = 0\n    def up(self):\n        kind = type(self)\n        kind.seen += 1\n"
    "def f(n):\n    A().up()\n    return n + A.seen",
    "a walrus": "(seen := [])\ndef f(n):\n    seen.append(n)\n    return n + len(seen)",
    "a closure": "def make():\n    seen = []\n    def f(n):\n        seen.append(n)\n        return n + len(seen)\n"
    "    return f\nf = make()",
    "a loop at the start": "for seen in [[]]: pass\ndef f(n):\n    seen.append(n)\n    return n + len(seen)",
    "a cache that is changed": "from functools import cache\n@cache\ndef ones(): return [1]\ndef f(n):\n"
    "    ones().append(1)\n    return n + len(ones()) - 1",
    "a generator": "import itertools\nnumbers = itertools.count(1)\ndef f(n): return n + next(numbers)",
    "random": "import random\nrandom.seed(3)\nfirst = random.Random(3).random()\n"
    "def f(n): return n + (random.random() == first)",
    "decimal": "from decimal import Decimal, getcontext\ndef f(n):\n    p = getcontext().prec\n    getcontext().prec = 1\n"
    "    return n + (p == 28)",
    "the environment": "import os\ndef f(n):\n    old = os.environ.get('SEEN', '1')\n    os.environ['SEEN'] = '5'\n"
    "    return n + int(old)",
    "the recursion limit": "import sys\nlimit = sys.getrecursionlimit()\ndef f(n):\n    new = sys.getrecursionlimit()\n"
    "    sys.setrecursionlimit(200)\n    return n + (new == limit)",
    "builtins": "import builtins\ndef f(n):\n    n = len([0] * n) + 1\n    builtins.len = lambda x: 7\n    return n",
    "warnings": "import warnings\nfilters = len(warnings.filters)\ndef f(n):\n    new = len(warnings.filters)\n"
    "    warnings.simplefilter('error')\n    return n + (new == filters)",
    "gc": "import gc\ndef f(n):\n    on = gc.isenabled()\n    gc.disable()\n    return n + on",
    "streams": "import sys, io\ndef f(n):\n    old = sys.stdout is sys.__stdout__\n    sys.stdout = io.StringIO()\n"
    "    return n + old",
    "json": "import json\ndef f(n):\n    json.dumps = json.loads = None\n    return n + 1",
    "a thread at the start": "import threading, queue\na, b = queue.Queue(), queue.Queue()\ndef work():\n    while True:\n"
    "        b.put(a.get() + 1)\nthreading.Thread(target=work, daemon=True).start()\ndef f(n):\n    a.put(n)\n    return b.get()",
    "a thread in a call": "import threading\ndef spin():\n    while True: pass\n"
    "def f(n):\n    threading.Thread(target=spin).start()\n    return n + threading.active_count() - 1",
    "a file": "import os\ndef f(n):\n    os.chdir('/')\n    return n + 1",
    "a file at the start": "import os\nos.chdir('/')\ndef f(n): return n + 1",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_cannot_affect_the_process_of_the_next_test(name: str) -> None:
    grading = grade_code(PROGRAMS[name], NEXT, total_seconds=60.0)
    assert [test.reason for test in grading.hidden] == [""] * 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_that_a_call_leaves_behind_reaches_the_next_test(name: str) -> None:
    assert not leaves_nothing(FUNCTIONS[name])
    grading = grade_code(FUNCTIONS[name], SUCC, total_seconds=60.0)
    assert [test.reason for test in grading.hidden] == [""] * 3


def test_calls_of_one_test_share_their_process() -> None:
    assert grade_code(FUNCTIONS["a counter"], TWICE).passed
    assert not grade_code("def f(n): return n + 1", TWICE).passed


def test_a_program_killed_by_a_signal_fails_whatever_it_printed() -> None:
    code = "import os\nprint(int(input()) + 1, flush=True)\nos.kill(os.getpid(), 9)"
    assert {test.reason for test in grade_code(code, NEXT).hidden} == {"SandboxDied"}


def test_a_test_that_ends_its_process_does_not_end_the_others() -> None:
    code = "import os\ndef f(n):\n    if n == 1: os._exit(0)\n    return n + 1"
    assert [test.passed for test in grade_code(code, SUCC).hidden] == [True, False, True]
    code = "import os\nn = int(input())\nif n == 1: os.abort()\nprint(n + 1)"
    assert [test.passed for test in grade_code(code, NEXT).hidden] == [True, False, True]


def test_a_program_is_not_loaded_again_for_every_test() -> None:
    code = "import time, os\ntime.sleep(0.5)\nseen = []\ndef f(n):\n    seen.append(n)\n    return n + len(seen)"
    suite = CodeSuite([CallTest("f", (n,), n + 1) for n in range(20)])
    assert grade_code(code, suite, total_seconds=5.0).passed


@pytest.mark.parametrize(
    "code",
    [
        "def f(n): return n + 1",
        "from typing import List\nimport math\nMOD = 10**9 + 7\nclass Solution:\n    def f(self, n: List[int]) -> int:\n"
        "        self.best = {}\n        node = n\n        node.next = 1\n        return sorted(math.gcd(*n))[0] % MOD",
        "def f(n, k=1):\n    'Doc.'\n    def g(): return n\n    return g()\nif __name__ == '__main__':\n    print(f(1))",
    ],
)
def test_programs_that_can_leave_nothing_behind_are_recognised(code: str) -> None:
    assert leaves_nothing(code)
    assert leaves_nothing(code, "from sys import *\nfrom random import *\nimport sys\nsys.setrecursionlimit(50000)\n")


@pytest.mark.parametrize(
    "line", ["sys.stdin = None", "seed(1)", "setrecursionlimit(9)", "open('x')", "setattr(f, 'a', 1)"]
)
def test_names_of_a_prelude_are_no_way_around_that(line: str) -> None:
    code = f"def f(n):\n    {line}\n    return n + 1"
    assert not leaves_nothing(code, "from sys import *\nfrom random import *\nimport sys\n")


def test_whole_programs_that_can_leave_nothing_behind_are_recognised() -> None:
    usual = "import sys\ninput = sys.stdin.readline\nseen = []\ndef main():\n    global seen\n    print(sys.stdin.read())\nmain()"
    assert leaves_nothing(usual, is_run=True)
    assert leaves_nothing("from sys import stdin, exit\nprint(sum(map(int, stdin)))\nexit()", is_run=True)
    for name in (
        "stdin replaced",
        "stdout closed",
        "a thread prints",
        "print replaced",
        "modules changed",
        "stdout reconfigured",
    ):
        assert not leaves_nothing(PROGRAMS[name], is_run=True), name


@pytest.mark.parametrize("name", ["stdin replaced", "stdout wrapped", "a thread prints", "os._exit()", "exit()"])
def test_tests_are_isolated_in_a_sandbox_whose_streams_are_not_files(name: str) -> None:
    grading = grade_code(PROGRAMS[name], NEXT, sandbox=Elsewhere, total_seconds=60.0)
    assert [test.reason for test in grading.hidden] == [""] * 3


@pytest.mark.parametrize("code", ["exit()", "quit()", "exit(3)"])
def test_exit_and_quit_exist_for_all_code(code: str) -> None:
    with LocalSandbox() as sandbox:
        result = sandbox.run(code)
        assert result.error is not None
        assert result.error.name == "SystemExit"
        assert sandbox.run("1 + 1").value == "2"


# Programs that leave nothing behind, so that their calls are tried in one run: each has an input that disturbs the rest.
TOGETHER = {
    "an endless loop": ("while n == 1: pass", "TimeoutError"),
    "an error": ("if n == 1: raise KeyError(n)", "KeyError"),
    "an exit": ("if n == 1: raise SystemExit", "SystemExit"),
    "a value too large": ("if n == 1: return 'x' * 10**6", "a value too large"),
    "no plain value": ("if n == 1: return print", "TypeError"),
    "too deep": ("return f(n) if n == 1 else n + 1", "RecursionError"),
    "memory": ("if n == 1: return len([0] * 10**12)", "MemoryError"),
    "output": ("if n == 1: print('x' * 10**6)", ""),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_calls_made_together_have_the_outcomes_of_calls_made_one_by_one(name):
    body, reason = TOGETHER[name]
    code = f"def f(n):\n    {body}\n    return n + 1"
    assert leaves_nothing(code)
    outcome = grade_code(code, SUCC, test_seconds=1)
    apart = [grade_code(code, CodeSuite([test]), test_seconds=1).hidden[0] for test in SUCC.hidden]
    assert list(outcome.hidden) == apart
    assert [verdict.reason for verdict in apart] == ["", reason, ""]


def test_slow_calls_have_the_time_of_each_although_they_were_tried_together():
    code = "def f(n):\n    for _ in range(8_000_000): pass\n    return n + 1"
    assert leaves_nothing(code)
    suite = CodeSuite([CallTest("f", (n,), n + 1) for n in range(4)])
    assert grade_code(code, suite, test_seconds=3, total_seconds=12).passed
