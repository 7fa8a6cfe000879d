"""The command line and a config of `toolrl train` and `sft`, read into data classes."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser  # type: ignore[attr-defined]

from toolrl.errors import ConfigError
from toolrl.training.flags import SCRIPT, refuse_unhonoured
from toolrl.training.values import check_values, refusals


class _Parser(TrlParser):
    """TRL's, whose errors are ours, and whose values are checked before anything is made of them."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # argparse takes -1e-5 for a flag.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf$|-nan$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see: {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise ConfigError(self.unknown(unknown[0]))
        values = dict(vars(found))
        check_values(values)
        return argparse.Namespace(**values), []

    def unknown(self, flag: str) -> str:
        """What to say of a flag that there is not."""
        name = flag.partition("=")[0].lstrip("-").replace("-", "_")
        if not flag.startswith("-"):
            return f"{flag!r} belongs to no flag; see: {self.prog} --help"
        if name in SCRIPT:
            return f"--{name} is not supported: {SCRIPT[name]}"
        near = difflib.get_close_matches(name, self.names(), n=2)
        hint = f"did you mean {' or '.join(f'--{other}' for other in near)}? " if near else ""
        return f"there is no flag --{name}; {hint}see: {self.prog} --help"

    def names(self) -> dict[str, argparse.Action]:
        """Flags by name."""
        return {action.dest: action for action in self._actions if action.dest != "help"}


def parse(parts: Any, program: str, arguments: list[str]) -> Any:
    """Read the command line and `--config`, a YAML file or the name of a recipe; the command line overrides its values.

    Raises:
        ConfigError: A flag or a value cannot be, contradicts others, or would do nothing.
        SystemExit: With status 0, after `--help`.
    """
    parser = _Parser(parts, prog=program)
    arguments = [
        part for entry in arguments for part in (entry.split("=", 1) if entry.startswith("--config=") else [entry])
    ]
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise ConfigError("--config needs a value: a YAML file, or the name of a recipe")
        if "--config" in arguments[place + 1 :]:
            raise ConfigError("--config is given twice; put all settings into one file, or further ones behind it")
        config = _read(find_config(arguments[place + 1]))
        arguments = [*_as_flags(parser, config), *arguments[:place], *arguments[place + 2 :]]
    with refusals(program):
        found = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    refuse_unhonoured(*found)
    return found


def find_config(name: str) -> str:
    """The path of a config: a file, or a recipe that comes with toolrl, by its name.

    Raises:
        ConfigError: There is none.
    """
    if Path(name).is_file():
        return name
    recipes = {path.stem: str(path) for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if name not in recipes:
        raise ConfigError(f"no config file at {name!r}, nor a recipe of that name; there are {', '.join(recipes)}")
    return recipes[name]


def _read(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the config {path!r} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise ConfigError(f"the config {path!r} must be a YAML mapping of settings, got a {type(config).__name__}")
    variables = config.pop("env", {})
    if not isinstance(variables, dict):
        raise ConfigError(f"`env` of the config {path!r} must be a mapping of environment variables")
    os.environ.update({name: str(value) for name, value in variables.items()})
    return config


def _as_flags(parser: _Parser, config: dict[str, Any]) -> list[str]:
    """A config as the flags it stands for, so that its values pass the same checks."""
    flags: list[str] = []
    actions = parser.names()
    hints = {name: hint for part in parser.dataclass_types for name, hint in get_type_hints(part).items()}
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    lists = {name for name, hint in hints.items() if list in [get_origin(kind) for kind in (hint, *get_args(hint))]}
    for name, value in config.items():
        name = name.replace("-", "_")
        action = actions.get(name)
        if action is None:
            raise ConfigError(f"the config: {parser.unknown(f'--{name}')}")
        if value is None and name not in optional:
            raise ConfigError(f"the config: {name} has no value; give it one, or leave it out")
        if isinstance(value, list) and name not in lists:
            raise ConfigError(f"the config: {name} takes one value, got the list {value!r}")
        if value in (None, []) or (isinstance(value, list) and action.nargs != "+"):  # of what takes one or several
            parser.set_defaults(**{name: value})
        elif isinstance(value, list):
            flags += [f"--{name}", *(_json(name, v) if isinstance(v, dict | list) else str(v) for v in value)]
        elif isinstance(value, dict):
            flags.append(f"--{name}={_json(name, value)}")
        else:
            flags.append(f"--{name}={value}")
    return flags


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:  # a date, say
        raise ConfigError(f"the config: {name} cannot be passed on as JSON: {error}; quote it") from None
