"""Promises about `toolrl init`: which names it takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolrl import ConfigError
from toolrl.cli import app
from toolrl.scaffold import KINDS, Names, make_package


@pytest.mark.parametrize(
    ("name", "distribution", "module", "env_id"),
    [
        ("my-shop", "my-shop", "my_shop", "my_shop/MyShop-v0"),
        ("my_shop", "my-shop", "my_shop", "my_shop/MyShop-v0"),
        ("my-env", "my-env", "my_env", "my_env/MyEnv-v0"),
        ("bazaar", "bazaar", "bazaar", "bazaar/Bazaar-v0"),
        ("shop-2-go", "shop-2-go", "shop_2_go", "shop_2_go/Shop2Go-v0"),
    ],
)
def test_all_names_follow_from_one(name: str, distribution: str, module: str, env_id: str) -> None:
    names = Names.of(name)
    assert (names.distribution, names.module, names.env_id) == (distribution, module, env_id)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MyShop", "write lower-case words.*'my-shop' would do"),
        ("2nd shop", "write lower-case words.*'nd-shop' would do"),
        ("my--shop", "'my-shop' would do"),
        ("", "write lower-case words"),
        ("../shop", "'shop' would do"),
        ("ünï", "write lower-case words"),
        ("class", "'class' is the name of a keyword of Python; choose another, such as class-env"),
        ("json", "a module of Python's standard library"),
        ("toolrl", "a module of toolrl"),
        ("toolrl-envs", "a module of toolrl"),
        ("gymnasium", "a module that can be imported here"),
        ("scikit-learn", "a package that is installed here"),
    ],
)
def test_a_name_that_cannot_work_is_refused_with_one_that_can(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Names.of(name)


def test_a_folder_without_code_does_not_take_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shop").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Names.of("my-shop").module == "my_shop"


@pytest.mark.parametrize(
    ("name", "kind"), [("tool-env", "tools"), ("coins", "game"), ("task", "mcp"), ("path", "search")]
)
def test_a_class_does_not_take_the_name_of_another_in_the_code(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match="which means something else in the code of this kind; choose another"):
        make_package(name, kind, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_package_may_have_the_name_of_the_templates(tmp_path: Path) -> None:
    make_package("my-env", "tools", tmp_path)
    assert "class MyEnv(ToolEnv)" in (tmp_path / "src" / "my_env" / "env.py").read_text("utf-8")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my-shop").mkdir()
    (tmp_path / "my-shop" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "my-shop", tmp_path / "my-shop" / "notes.txt"):
        with pytest.raises(ConfigError, match="is not an empty folder; choose another with --out, or remove it"):
            make_package("my-shop", "tools", folder)
    assert [path.name for path in (tmp_path / "my-shop").iterdir()] == ["notes.txt"]


def test_an_unknown_kind_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is called 'robot'; the kinds are tools, search, code"):
        make_package("my-shop", "robot", tmp_path / "made")


def test_the_command_writes_into_the_current_folder_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "my-shop"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "my_shop/MyShop-v0 is ready. Begin with my-shop/src/my_shop/env.py" in result.output
    assert "toolrl check my_shop/MyShop-v0" in result.output
    made = {path.relative_to(tmp_path / "my-shop").as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {
        ".github/workflows/ci.yml", ".gitignore", "README.md", "notebooks/explore.ipynb", "pyproject.toml",
        "src/my_shop/__init__.py", "src/my_shop/env.py", "tests/test_env.py", "train.yaml",
    }  # fmt: skip


def test_the_help_names_every_kind() -> None:
    text = " ".join(CliRunner().invoke(app, ["init", "--help"], env={"COLUMNS": "200"}).output.split())
    assert [kind for kind in KINDS if f"'{kind}'" not in text] == []
