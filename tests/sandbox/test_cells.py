"""Code is read like a notebook cell, the same way in every backend."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolrl.sandbox import Sandbox


@pytest.fixture(params=["full", "e2b"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


def value(sandbox: Sandbox, code: str) -> str | None:
    result = sandbox.run(code)
    assert result.error is None, result.error
    return result.value


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("    x = 1\n    x", "1"),
        ("\n\n\tif 1:\n\t\ty = 2\n\ty", "2"),
        ("  # a comment\n  3", "3"),
        ("    '''a\n    b'''", "'a\\nb'"),
        ("  def f():\n      return 4\n\n  f()", "4"),
        ("  5\n", "5"),
    ],
)
def test_a_cell_may_be_indented_as_a_whole(sandbox: Sandbox, code: str, expected: str) -> None:
    assert value(sandbox, code) == expected


def test_inconsistent_indentation_is_still_an_error(sandbox: Sandbox) -> None:
    assert sandbox.run("x = 1\n    y = 2").error.name == "IndentationError"
    assert sandbox.run("    x = 1\n  y = 2").error.name == "IndentationError"


@pytest.mark.parametrize(
    "code", ["x;", "(x);", "x; # why", "x ;\n\n", "(x\n);\n# end", "'é'; ", "f'{x}';", "[x, ';'] ;"]
)
def test_a_trailing_semicolon_hides_the_value(sandbox: Sandbox, code: str) -> None:
    sandbox.run("x = 1")
    assert value(sandbox, code) is None


@pytest.mark.parametrize("code", ["x # ;", "';'", "x; x", "';' # ;", "(';')"])
def test_a_semicolon_elsewhere_does_not_hide_it(sandbox: Sandbox, code: str) -> None:
    sandbox.run("x = 1")
    assert value(sandbox, code) is not None


def test_the_last_values_have_names(sandbox: Sandbox) -> None:
    assert sandbox.run("_").error.name == "NameError"
    for number in range(3):
        assert value(sandbox, str(number)) == str(number)
    assert value(sandbox, "None") is None
    assert value(sandbox, "7;") is None
    assert value(sandbox, "_, __, ___") == "(2, 1, 0)"
    assert value(sandbox, "_") == "(2, 1, 0)"


def test_a_name_that_the_code_has_assigned_is_not_overwritten(sandbox: Sandbox) -> None:
    value(sandbox, "1")
    value(sandbox, "for _ in range(9): pass")
    value(sandbox, "2")
    assert value(sandbox, "_") == "8"
    value(sandbox, "del _")
    assert value(sandbox, "3") == "3"
    assert value(sandbox, "_") == "3"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import asyncio\nawait asyncio.sleep(0.01, 1)", "1"),
        ("async def f(): return 2\nx = await f()\nx", "2"),
        ("async def g():\n    yield 3\n[x async for x in g()]", "[3]"),
        ("async def g():\n    yield 4\nasync for x in g(): pass\nx", "4"),
        ("import asyncio\nasync with asyncio.timeout(9): y = 5\ny", "5"),
        ("import asyncio\nasync def f(): return 6\nasyncio.run(f())", "6"),
        ("import asyncio\nasync def f(): return 7\nasyncio.new_event_loop().run_until_complete(f())", "7"),
    ],
)
def test_await_works_outside_of_functions(sandbox: Sandbox, code: str, expected: str) -> None:
    assert value(sandbox, code) == expected


def test_a_task_continues_in_the_next_cell_that_awaits(sandbox: Sandbox) -> None:
    value(sandbox, "import asyncio\nasync def f():\n    await asyncio.sleep(0.05)\n    return 8")
    value(sandbox, "task = asyncio.ensure_future(f()) if await asyncio.sleep(0) is None else 0")
    assert value(sandbox, "await task") == "8"


def test_an_error_in_an_awaited_task_shows_the_codes_own_lines(sandbox: Sandbox) -> None:
    error = sandbox.run("async def f():\n    1 / 0\nawait f()").error
    assert error.name == "ZeroDivisionError"
    assert error.traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<tool>", line 3, in <module>',
        "    await f()",
        '  File "<tool>", line 2, in f',
        "    1 / 0",
        *(["    ~~^~~"] if sys.version_info >= (3, 11) else []),
        "ZeroDivisionError: division by zero",
    ]
    assert sandbox.run("def f():\n    await 1").error.name == "SyntaxError"


def test_a_long_await_is_stopped_and_can_be_interrupted(sandbox: Sandbox) -> None:
    result = sandbox.run("import asyncio\nawait asyncio.sleep(60)", timeout_seconds=1)
    assert result.error.name == "TimeoutError"
    result = sandbox.run(
        "import asyncio, os, signal\nasyncio.get_event_loop\nawait asyncio.sleep(0)\nraise KeyboardInterrupt"
    )
    assert result.error.name == "KeyboardInterrupt"
    assert value(sandbox, "await asyncio.sleep(0, 9)") == "9"


@pytest.mark.parametrize("code", ["exit()", "quit()", "exit(3)", "import sys; sys.exit('x')", "raise SystemExit"])
def test_exit_ends_the_cell_and_not_the_session(sandbox: Sandbox, code: str) -> None:
    sandbox.run("kept = 1")
    assert sandbox.run(f"{code}\nkept = 2").error.name == "SystemExit"
    assert value(sandbox, "kept") == "1"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("display(HTML('<b>1</b>'))", {"text/html": "<b>1</b>"}),
        ("display(Markdown('# a'))", {"text/markdown": "# a"}),
        ("display(Latex('$x$'))", {"text/latex": "$x$"}),
        ("display(Math('x^2'))", {"text/latex": "$\\displaystyle x^2$"}),
        ("display(SVG('<svg/>'))", {"image/svg+xml": "<svg/>"}),
        ("display(JSON({'a': [1]}))", {"application/json": '{"a": [1]}'}),
        ("display(Javascript('1'))", {"application/javascript": "1"}),
        ("display(Image(data=b'\\x89PNG\\r\\n'))", {"image/png": "iVBORw0K"}),
        ("display(Image(data=b'\\xff\\xd8'))", {"image/jpeg": "/9g="}),
        ("display({'text/latex': 'x'}, raw=True)", {"text/latex": "x"}),
        ("display({'text/plain': 'x', 'a/b': b'1'}, raw=True)", {"text/plain": "x", "a/b": "MQ=="}),
        ("display(1, include=['text/html'])", {}),
        ("display(HTML('x'), exclude=['text/plain'])", {"text/html": "x"}),
    ],
)
def test_ipythons_display_objects_are_displayed(sandbox: Sandbox, code: str, expected: dict[str, str]) -> None:
    names = "from IPython.display import display, HTML, Markdown, Latex, Math, SVG, JSON, Javascript, Image\n"
    result = sandbox.run(names + code)
    assert result.error is None
    (shown,) = result.displays
    assert expected.items() <= shown.data.items()
    assert set(shown.data) - set(expected) <= {"text/plain"}


def test_ipythons_names_can_be_imported_from_all_its_modules(sandbox: Sandbox) -> None:
    code = "import IPython\nfrom IPython.core.display import HTML\nfrom IPython.core.display_functions import display"
    assert value(sandbox, f"{code}\nHTML('a'), HTML is IPython.display.HTML") == (
        "(<IPython.core.display.HTML object>, True)"
    )
    assert value(sandbox, "from IPython import get_ipython\nget_ipython()") is None
    assert value(sandbox, "IPython.display.clear_output(wait=True)") is None
    assert sandbox.run("import IPython.kernel").error.name == "ModuleNotFoundError"
    assert sandbox.run("display(1, raw=True)").error.name == "TypeError"


def test_a_named_display_can_be_replaced(sandbox: Sandbox) -> None:
    code = (
        "h = display('a', display_id=True)\ndisplay('b')\nh.update('c')\nupdate_display('d', display_id=h.display_id)"
    )
    shown = sandbox.run(f"from IPython.display import update_display\n{code}").displays
    assert [show.data["text/plain"] for show in shown] == ["'d'", "'b'"]


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("!echo hi", "hi\n"),
        ("x = 'there'\n!echo $x {x}", "there there\n"),
        ("if True:\n    !echo in", "in\n"),
        ("  !echo indented", "indented\n"),
        ("!exit 3\nprint(_exit_code)", "3\n"),
        ("lines = !printf 'a\\nb'\nprint(lines)", "['a', 'b']\n"),
        ("%%bash\nfor i in 1 2; do echo $i; done", "1\n2\n"),
        ("%%writefile f.txt\nbody\n", "Writing f.txt\n"),
        ("%matplotlib inline\nprint(1)", "1\n"),
        ("%%time\nprint(2)", "2\n"),
        ("x = '!echo no'\nprint(x)", "!echo no\n"),
        ("print('''\n!echo no\n%no''')", "\n!echo no\n%no\n"),
        ("x = 7\nprint(x\n%4)", "3\n"),
    ],
)
def test_simple_magics_work_and_similar_text_is_left_alone(sandbox: Sandbox, code: str, stdout: str) -> None:
    result = sandbox.run(code)
    assert (result.error, result.stdout) == (None, stdout)


def test_cd_changes_the_folder_for_later_code(sandbox: Sandbox) -> None:
    value(sandbox, "import os; os.mkdir('inner')")
    assert sandbox.run("%cd inner\n!pwd").stdout.count("/inner\n") == 2


@pytest.mark.parametrize("code", ["%load_everything", "%%cython\nx", "%who"])
def test_other_magics_are_refused_as_ipythons(sandbox: Sandbox, code: str) -> None:
    error = sandbox.run(code).error
    assert error.name == "SyntaxError"
    assert "IPython's and not available here" in error.value


@pytest.mark.parametrize("code", ["a b", "!", "x = = !ls", "def", "%%", "x = (1\n!ls"])
def test_lines_that_are_neither_python_nor_magic_are_harmless(sandbox: Sandbox, code: str) -> None:
    error = sandbox.run(code).error
    assert error is None or error.name == "SyntaxError"


IN_A_KERNEL = """
import asyncio, sys
from toolrl.sandbox.inside.remote import Kernel

async def cell():  # as in ipykernel: inside a running loop
    kernel = Kernel(1 << 20, 1000, "MARKER")
    codes = ("import asyncio; await asyncio.sleep(0, 1)", "async def f(): return 2\\nasyncio.run(f())")
    print([kernel.run(code, n, {}, "", "x")._repr_json_()["value"] for n, code in enumerate(codes)], file=sys.stderr)
    await asyncio.sleep(0)
    assert asyncio.get_running_loop() is loop

loop = asyncio.new_event_loop()
loop.run_until_complete(cell())
"""


def test_await_and_asyncio_run_work_in_a_kernel_with_a_running_loop() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_KERNEL], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "['1', '2']\n")
