"""Python is parsed on several threads, whatever they do to each other."""

from __future__ import annotations

import ast

import pytest

from toolrl.support.python_source import parse_python


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
