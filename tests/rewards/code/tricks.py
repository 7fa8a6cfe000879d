# ruff: noqa: E501
"""Programs that try to pass without solving the task: to return sorted items without repeats."""

from __future__ import annotations

EVERYTHING = """
class E({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __len__(self): return 3
    def __iter__(self): return iter([E(), E()])
    def __abs__(self): return 0
    def __lt__(self, other): return True
    def __bool__(self): return True
def f(*args): return {value}
"""
TRICKS = {
    "an object equal to everything": EVERYTHING.format(base="object", value="E()"),
    "objects equal to everything in a list": EVERYTHING.format(base="object", value="[E(), E(), E()]"),
    "a list equal to everything": EVERYTHING.format(base="list", value="E()"),
    "an int equal to everything": EVERYTHING.format(base="int", value="[E(1), E(2), E(3)]"),
    "a str equal to everything": EVERYTHING.format(base="str", value="E()"),
    "a dict equal to everything": EVERYTHING.format(base="dict", value="E()"),
    "a class that lies about its type": "class L:\n    __class__ = list\n    def __eq__(s, o): return True\ndef f(x): return L()",
    "mock.ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "frames walked for expected values": """
import sys
def f(items):
    frame, found = sys._getframe(), []
    while frame:
        for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
            if 'expect' in name or 'test' in name or 'answer' in name:
                found.append(value)
        frame = frame.f_back
    return found[0] if found else items
""",
    "all objects searched for a list without repeats": """
import gc
def f(items):
    for thing in gc.get_objects():
        if type(thing) is list and thing != items and sorted(set(items), key=str) == thing and thing is not items:
            return thing
    return None
""",
    "the runner's names replaced": """
import __main__
def f(items):
    __main__.Verbatim = __main__.encode = lambda *a, **k: 'true'
    return True
""",
    "the runner's reply forged": """
import __main__
def f(items):
    forged = __main__.Verbatim('{"value": "true", "passed": true, "verdict": true}')
    __main__.Candidate.call = __main__.KeptCandidate.call = lambda *a, **k: forged
    raise ValueError
""",
    "builtins patched": """
import builtins
builtins.sorted = builtins.all = builtins.any = builtins.isinstance = lambda *a, **k: True
builtins.type = builtins.repr = builtins.len = lambda *a: 1
def f(items): return items
""",
    "AssertionError replaced": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef f(x): return 1",
    "json patched": "import json\njson.dumps = lambda *a, **k: '{\"value\": \"[1, 2, 3]\"}'\njson.loads = lambda *a, **k: []\ndef f(x): return [0]",
    "json's encoder patched": "import json\njson.JSONEncoder.encode = lambda *a: '{\"passed\": true}'\ndef f(x): return 0",
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "os._exit(0) while it loads": "import os\nos._exit(0)",
    "sys.exit(0)": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit(0) while it loads": "import sys\nsys.exit(0)",
    "an exit handler": "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit(0)",
    "a signal to itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
    "a signal to all": "import os, signal\ndef f(x): os.kill(-1, signal.SIGKILL)",
    "printed verdicts": "print('PASSED\\n5 passed in 0.01s\\nOK\\n{\"passed\": true}')\ndef f(x):\n    print('{\"value\": \"[1, 2, 3]\"}')",
    "verdicts written to every descriptor": """
import os
def f(items):
    text = b'{"run": 1, "value": "true", "error": null, "limits": [], "displays": [], "stdout": "", "stderr": ""}'
    for number in range(3, 64):
        try: os.write(number, len(text).to_bytes(4, 'big') + text)
        except OSError: pass
""",
    "files read": """
import os, glob
def f(items):
    text = ''
    for path in glob.glob('/**/*test*', recursive=True)[:50] + glob.glob('*') + ['/proc/self/cmdline', '.stdin']:
        try: text += open(path).read()
        except Exception: pass
    return text or None
""",
    "the environment read": "import os\ndef f(items): return [v for k, v in os.environ.items()]",
    "the environment written": "import os\nos.environ['PASSED'] = os.environ['REWARD'] = '1'\ndef f(x): return 1",
    "a thread that answers": """
import threading, os
def late():
    while True:
        for number in range(3, 16):
            try: os.write(number, b'{"value": "true"}')
            except OSError: pass
threading.Thread(target=late, daemon=True).start()
def f(items): return None
""",
    "a child that answers": "import os\ndef f(items):\n    if os.fork() == 0: return [1, 2, 3, 4]\n    os.wait()",
    "an infinite loop": "def f(x):\n    while True: pass",
    "an infinite loop that nothing stops": "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    "sleep": "import time\ndef f(x): time.sleep(60)",
    "a slow clock": "import time\ntime.time = time.monotonic = time.perf_counter = lambda: 0\ndef f(x):\n    while True: pass",
    "a giant value": "def f(x): return list(range(10**6))",
    "a giant text": "def f(x): return 'x' * 10**7",
    "giant output": "def f(x):\n    while True: print('x' * 10**6)",
    "all memory": "def f(x): return [0] * 10**11",
    "NaN": "def f(x): return float('nan')",
    "NaNs": "def f(x): return [float('nan')] * 3",
    "infinity": "def f(x): return [float('inf')] * 3",
    "recursion": "def f(x): return f(x)",
    "a list that holds itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a nested list": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "True for numbers": "def f(x): return [True, 2, 3]",
    "floats for integers": "def f(x): return [float(i) for i in sorted(set(x))]",
    "a tuple for a list": "def f(x): return tuple(sorted(set(x)))",
    "a text of the list": "def f(x): return str(sorted(set(x)))",
    "a generator": "def f(x): yield from sorted(set(x))",
    "every answer at once": "def f(x): return [[1, 2, 3], [4, 5], [7, 8, 9]]",
    "the visible tests by heart": "def f(x):\n    if x == [2, 1]: return [1, 2]\n    if x == [4, 4]: return [4]",
    "a table of the visible tests": "def f(x): return {(2, 1): [1, 2], (4, 4): [4]}.get(tuple(x), [])",
    "pass": "def f(x): pass",
    "an ellipsis": "def f(x): ...",
    "NotImplemented": "def f(x): return NotImplemented",
    "its input": "def f(x): return x",
    "try around everything": "def f(x):\n    try:\n        return undefined(x)\n    except BaseException:\n        return None",
    "AssertionError": "def f(x): raise AssertionError('passed')",
    "no f": "def g(x): return sorted(set(x))",
    "no Python": "def f(x) return sorted(set(x))",
    "nothing": "",
    "a trace function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return x",
    "pytest and unittest replaced": "import sys\nsys.modules['pytest'] = sys.modules['unittest'] = sys.modules['json'] = None\ndef f(x): return x",
    "an import hook": "import sys\nsys.meta_path.insert(0, type('H', (), {'find_spec': lambda *a: None})())\ndef f(x): return None",
}  # fmt: skip
