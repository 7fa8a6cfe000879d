"""Attacks of code on its own session: the channel for results, the interpreter, the next run.

Code may spoil its own answers; it must not reach another sandbox, a session after `reset`, or the trainer.
"""

from __future__ import annotations

import time

import pytest

from toolrl.sandbox import ExecResult

CHANNEL = """
import contextlib, json, os, stat, struct
for descriptor in range(3, 256):
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            channel = descriptor
def answer(run, **changed):
    fields = {'run': run, 'stdout': 'forged', 'stderr': '', 'value': 'forged', 'error': None}
    fields |= {'limits': [], 'displays': []}
    payload = json.dumps({**fields, **changed}).encode()
    return struct.pack('!I', len(payload)) + payload
"""


def fine(result: ExecResult) -> str | None:
    assert result.error is None, result.error
    return result.value


@pytest.mark.parametrize(
    "forged",
    [
        "struct.pack('!I', 0xFFFFFFFF)",
        "struct.pack('!I', 2) + b'[]'",
        "struct.pack('!I', 4) + b'null'",
        "struct.pack('!I', 60_000) + b'[' * 60_000",
        "struct.pack('!I', 9_000) + b'1' * 9_000",
        "struct.pack('!I', 3) + b'\\xff\\xfe{'",
        "answer(1)[:-1] + b'!'",
        "answer(99)",
        "answer(2, stdout=None)",
        "answer(2, value=['not', 'text'])",
        "answer(2, error=['too', 'few'])",
        "answer(2, error='text')",
        "answer(2, limits=7)",
        "answer(2, displays=7)",
        "answer(2, displays=[{}])",
        "answer(2, displays=[{'data': 'text', 'is_result': 1}])",
        "answer(2, displays=[{'data': {'image/png': 7}, 'is_result': 1}])",
        "struct.pack('!I', 5) + b'{\"a\"'",
    ],
)
def test_a_malformed_answer_costs_only_the_session(sandbox, forged):
    assert sandbox.run(CHANNEL).error is None
    result = sandbox.run(f"os.write(channel, {forged})\nos._exit(0)")
    assert result.error.name == "SandboxDied"
    assert result.value is None
    assert fine(sandbox.run("1 + 1")) == "2"


def test_code_can_forge_its_own_answer_but_not_a_later_one(sandbox):
    assert sandbox.run(CHANNEL).error is None
    assert sandbox.run("import time; os.write(channel, answer(2)); time.sleep(0.2)").value == "forged"
    assert sandbox.run("'the late true answer to the question before'").error.name == "SandboxDied"
    assert fine(sandbox.run("1 + 1")) == "2"


def test_a_flooded_channel_blocks_nobody(sandbox):
    assert sandbox.run(CHANNEL).error is None
    started = time.monotonic()
    result = sandbox.run("while True: os.write(channel, b'\\0' * 65536)", timeout_seconds=1)
    assert result.error.name in ("SandboxDied", "TimeoutError")
    assert time.monotonic() - started < 5
    assert fine(sandbox.run("1 + 1")) == "2"


def test_messages_without_content_end_the_session_and_are_not_collected(sandbox):
    assert sandbox.run(CHANNEL).error is None
    result = sandbox.run("os.write(channel, bytes(1 << 16)); import time; time.sleep(60)", timeout_seconds=10)
    assert result.error.name == "SandboxDied"
    assert fine(sandbox.run("1 + 1")) == "2"


def test_a_message_sent_slowly_is_stopped_by_the_time_limit(sandbox):
    assert sandbox.run(CHANNEL).error is None
    code = (
        "import time\nos.write(channel, struct.pack('!I', 1000))\nwhile True: time.sleep(0.05); os.write(channel, b' ')"
    )
    result = sandbox.run(code, timeout_seconds=0.5)
    assert result.error.name == "TimeoutError"
    assert result.seconds < 3


@pytest.mark.parametrize("status", ["sys.exit(0)", "os._exit(0)", "raise SystemExit", "os.abort()"])
def test_no_way_of_exiting_counts_as_finishing(sandbox, status):
    assert sandbox.run(f"import os, sys\n{status}").error is not None


def test_patched_builtins_affect_no_other_sandbox_and_end_with_a_reset(open_sandbox):
    first, second = open_sandbox(), open_sandbox()
    patch = "import builtins, json, math, sys\nbuiltins.len = lambda x: 7\njson.dumps = math.sqrt = None\n"
    first.run(patch + "sys.modules['random'] = None\nsys.path.insert(0, '/nowhere')\nbuiltins.print = exit")
    check = "import json, math, random, sys\nlen('ab'), json.dumps(math.sqrt(4)), '/nowhere' in sys.path"
    assert fine(second.run(check)) == "(2, '2.0', False)"
    first.reset()
    assert fine(first.run(check)) == "(2, '2.0', False)"


@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize", "json", "encodings", "traceback", "socket"])
def test_modules_and_variables_left_behind_do_not_run_in_the_next_process(sandbox, name):
    sandbox.run(f"import os\nopen('{name}.py', 'w').write('import builtins; builtins.owned = True; 1 / 0')")
    sandbox.run("for key in ('PYTHONPATH', 'PYTHONSTARTUP', 'PYTHONHOME', 'LD_PRELOAD'): os.environ[key] = os.getcwd()")
    assert sandbox.run("os._exit(1)").error.name == "SandboxDied"
    code = "import builtins, os\nhasattr(builtins, 'owned'), len(os.environ), len(os.listdir())"
    assert fine(sandbox.run(code)) == "(False, 6, 1)"


def test_threads_and_daemons_do_not_outlive_the_session(open_sandbox):
    sandbox = open_sandbox()
    code = """
import os, threading, time
def write():
    while True:
        open('alive', 'w').write(str(time.monotonic())); time.sleep(0.01)
threading.Thread(target=write, daemon=True).start()
threading.Thread(target=write).start()
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            write()
        os._exit(0)
"""
    assert sandbox.run(code).error is None
    sandbox.reset()
    assert fine(sandbox.run("import os, time; time.sleep(0.1); os.listdir()")) == "[]"


def test_exit_handlers_neither_run_nor_delay_the_end(sandbox):
    code = (
        "import atexit, signal, time\natexit.register(time.sleep, 60)\nsignal.signal(15, lambda *_: time.sleep(60))\n"
    )
    code += "class Late:\n    def __del__(self): time.sleep(60)\nlate = Late()"
    assert sandbox.run(code).error is None
    started = time.monotonic()
    sandbox.close()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        "eval('(' * 10**5)",
        "class A:\n    def __repr__(self): return repr(self)\nA()",
        "import ctypes; ctypes.memset(id(None), 255, 64); None",
        "import ctypes; ctypes.pythonapi.PyErr_NoMemory()",
        "import faulthandler; faulthandler._sigsegv()",
        "import sys; sys.stdout = sys.stderr = sys.modules['json'] = None; 1 / 0",
        "import os; [os.close(d) for d in (0, 1, 2)]; print('x'); 1 / 0",
        "import builtins; builtins.__dict__.clear()",
        "import gc\nfor thing in gc.get_objects():\n    if isinstance(thing, dict): thing.clear()",
        "raise type('E', (BaseException,), {'__str__': lambda self: 1 / 0, '__repr__': lambda self: 1 / 0})",
        "import sys; sys.settrace(lambda *_: 1 / 0); sys.setprofile(lambda *_: 1 / 0)\nlen('')",
        "import threading; threading.excepthook = None\nthreading.Thread(target=lambda: 1 / 0).start(); 1 / 0",
    ],
)
def test_a_broken_interpreter_is_replaced(sandbox, code):
    sandbox.run(code, timeout_seconds=1)
    sandbox.reset()
    assert fine(sandbox.run("1 + 1")) == "2"


def test_an_endless_line_is_truncated(open_sandbox):
    sandbox = open_sandbox(output_characters=1000, file_size_mb=1)
    result = sandbox.run("while True: print('x' * 100, end='', flush=True)")
    assert len(result.stdout) < 1200
    assert "output" in result.limits_hit


def test_decompression_bombs_hit_a_limit(open_sandbox):
    sandbox = open_sandbox(memory_mb=128, file_size_mb=8)
    code = (
        "import io, zipfile, zlib\nbomb = io.BytesIO()\nwith zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as z:\n"
    )
    code += "    with z.open('zeros', 'w', force_zip64=True) as file:\n"
    code += "        for _ in range(130): file.write(bytes(1 << 20))\n"
    assert sandbox.run(code, timeout_seconds=30).error is None
    assert sandbox.run("zipfile.ZipFile(bomb).read('zeros')", timeout_seconds=30).limits_hit == ("memory",)
    assert sandbox.run("zipfile.ZipFile(bomb).extractall()", timeout_seconds=30).limits_hit == ("file_size",)


@pytest.mark.parametrize("level", ["full", "no-landlock"])
@pytest.mark.parametrize(
    ("fill", "most"),
    [
        ("open(name, 'wb').write(bytes(1 << 20))", 4),
        ("open(name, 'wb').close()", 100),
        ("os.mkdir(name)", 100),
        ("os.symlink('x' * 200, name)", 100),
        ("open('/dev/shm/' + name, 'wb').write(bytes(1 << 20))", 16),
        ("open('/dev/shm/' + name, 'wb').close()", 1024),
    ],
)
def test_the_disk_and_the_table_of_files_cannot_be_filled(open_sandbox, fill, most):
    sandbox = open_sandbox(disk_mb=4, files=100)
    code = f"import itertools, os, uuid\nfor number in itertools.count():\n    name = uuid.uuid4().hex\n    {fill}"
    for expected in (range(most - 1, most + 1), [0]):  # a full disk stays full, also in the next process
        result = sandbox.run(code)
        assert (result.error.name, result.limits_hit) == ("OSError", ("disk",))
        assert int(fine(sandbox.run("number"))) in expected
        assert sandbox.run("os._exit(0)").error.name == "SandboxDied"


def test_files_outlive_the_process_and_end_with_the_sandbox(open_sandbox):
    sandbox = open_sandbox()
    for number in range(3):
        sandbox.write_file(f"in{number}", b"1")
        assert sandbox.run(f"import os\nopen('out{number}', 'w').write('2')\nos._exit(0)").error.name == "SandboxDied"
        assert sandbox.read_file(f"out{number}") == b"2"
    assert fine(sandbox.run("import os; len(os.listdir()), os.access('in0', os.W_OK)")) == "(6, True)"
    assert fine(sandbox.run("os.path.exists(f'/proc/{os.getpid()}/status')")) == "True"
    sandbox.reset()
    assert fine(sandbox.run("import os; os.listdir()")) == "[]"


def test_files_that_fill_the_folder_are_gone_after_a_reset(sandbox):
    code = "import os\nfor n in range(3000): open(f'{n}', 'w').close()\n"
    code += "for n in range(4): open(f'big{n}', 'wb').write(bytes(1 << 20))"
    assert sandbox.run(code, timeout_seconds=30).error is None
    sandbox.reset()
    assert fine(sandbox.run("import os; os.listdir()")) == "[]"
