"""Python is parsed on several threads, whatever they do to each other."""

from __future__ import annotations

import ast
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolrl.support.python_source import parse_python

NESTED = "\n".join(f"def f{n}(x):\n return [{{'a': (x, {'-' * 20}{n})}} for y in range({n}) if y]" for n in range(40))


def test_threads_that_parse_at_once_do_not_disturb_each_other() -> None:
    expected = ast.dump(ast.parse(NESTED))
    threshold = gc.get_threshold()
    gc.set_threshold(50)  # a collection lets another thread in
    try:
        with ThreadPoolExecutor(8) as pool:
            assert {ast.dump(tree) for tree in pool.map(parse_python, [NESTED] * 100)} == {expected}
    finally:
        gc.set_threshold(*threshold)


@pytest.mark.parametrize("failures", [3, 99])
def test_a_parse_that_another_thread_disturbed_is_repeated(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    left, parse = [None] * failures, ast.parse

    def disturbed(text: str, mode: str) -> ast.AST:
        if left:
            left.pop()
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(text, mode=mode)

    monkeypatch.setattr(ast, "parse", disturbed)
    if failures == 3:
        assert isinstance(parse_python("1", "eval"), ast.Expression)
    else:
        with pytest.raises(SystemError):
            parse_python("1")
