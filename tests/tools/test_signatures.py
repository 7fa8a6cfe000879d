"""Promises about what authors turn into tools: it works, or an error says what to write."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import pytest
import typing_extensions

from tests.tools.conftest import CallTool
from toolrl import ConfigError, Task, ToolEnv, ToolError, per_episode, tool
from toolrl.errors import ToolDefinitionError
from toolrl.tools import Toolbox

if TYPE_CHECKING:
    from somewhere_else import Frame  # type: ignore[import-not-found]


class Cart:
    """State that a careless author shares between episodes."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def add(self, item: str) -> str:
        """Add an item.

        Args:
            item: What.
        """
        self.items.append(item)
        return ", ".join(self.items)

    @classmethod
    def size(cls, item: str) -> str:
        """Say how large an item is.

        Args:
            item: What.
        """
        return f"{cls.__name__} {item}"

    @staticmethod
    def price(item: str) -> int:
        """Say what an item costs.

        Args:
            item: What.
        """
        return len(item)

    def __call__(self, item: str) -> str:
        """Add an item.

        Args:
            item: What.
        """
        return self.add(item)


def yields(count: int) -> Iterator[int]:
    """Count.

    Args:
        count: How far.
    """
    yield from range(count)


async def yields_later(count: int) -> Any:
    """Count.

    Args:
        count: How far.
    """
    yield count


def undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose author forgot functools.wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        """Do."""
        return function(*args, **kwargs)

    return wrapper


def plain(item: str, count: int = 2) -> str:
    """Repeat an item.

    Args:
        item: What.
        count: How often.
    """
    return item * count


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Cart, r"'Cart' is a class, and a tool is a function: its methods .*tools=\[Cart\]"),
        (Cart().add, r"'add' is a method of a Cart, and all episodes would share .* per_episode\(Cart\), or per_run"),
        (Cart(), r"'Cart' is a callable Cart, and all episodes would share that object"),
        (functools.partial(Cart().add, item="x"), r"'add' is a method of a Cart"),
        (Cart.add, r"'add' is a method without its object \('self'\)"),
        ([].append, r"'append' is a method of a list"),
        (lambda item: item, "a lambda has no name, docstring or type hints"),
        (yields, "'yields' yields, but a model reads a result as a whole: return a list or text"),
        (yields_later, "'yields_later' yields, but a model reads"),
        (undecorated(plain), r"'wrapper': parameter 'args' must be named.*a decorator needs functools\.wraps"),
        ("plain", r"made from a function, got str: 'plain'; write @tool\(name='plain'\)"),
        ({"type": "function"}, "made from a function, got dict"),
        (5, "made from a function, got int: 5"),
        (None, "made from a function, got NoneType: None"),
        (classmethod(plain), "made from a function, got classmethod"),
        (tool(plain), "made from a function, got Tool"),
    ],
    ids=lambda value: "",
)
def test_what_is_not_a_plain_function_is_refused_with_what_to_write(given: Any, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        tool()(given)
    if not (hasattr(given, "schema") or isinstance(given, type)):
        with pytest.raises(ToolDefinitionError, match=message):
            Toolbox([given])


@pytest.mark.parametrize("name", ["größe", "look up", "a" * 65, "", "f(x)", "<tool>", "a\n"])
def test_a_name_that_chat_apis_do_not_take_is_refused(name: str) -> None:
    with pytest.raises(ToolDefinitionError, match=r"a tool's name is 1 to 64 letters .*write @tool\(name=...\)"):
        tool(name=name)(plain) if name else tool(types.FunctionType(plain.__code__, {}, "ö"))


@pytest.mark.parametrize("tools", [plain, tool(plain), "plain", {"plain": plain}, 5])
def test_tools_that_are_not_a_list_are_refused(tools: Any) -> None:
    with pytest.raises(ToolDefinitionError, match="tools must be a list of functions and tools, got "):
        ToolEnv(tasks=[Task("t", "p")], reward=lambda task, episode: 0.0, tools=tools)


@pytest.mark.parametrize(
    "limits", [{"timeout_seconds": 0}, {"timeout_seconds": math.nan}, {"max_output_characters": 0}]
)
def test_limits_that_are_not_positive_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ToolDefinitionError, match="must be positive"):
        tool(**limits)(plain)


def test_partials_statics_class_methods_and_wrapped_functions_are_tools(call_tool: CallTool) -> None:
    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs).upper()

    bound = functools.partial(plain, count=3)
    assert call_tool(bound, item="ab").content == "ababab"
    assert list(tool(bound).schema["function"]["parameters"]["properties"]) == ["item"]
    assert call_tool(Cart.price, item="ab").content == "2"
    assert call_tool(Cart.size, item="ab").content == "Cart ab"
    assert tool(Cart.__dict__["price"]).name == "price"
    assert call_tool(wrapped, item="ab").content == "ABAB"
    assert call_tool(functools.lru_cache(plain), item="c").content == "cc"


def test_a_partial_of_an_async_function_is_awaited(call_tool: CallTool) -> None:
    async def later(item: str, count: int) -> str:
        """Repeat.

        Args:
            item: What.
            count: How often.
        """
        await asyncio.sleep(0)
        return item * count

    assert call_tool(functools.partial(later, count=2), item="a").content == "aa"


# ---- types


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class Address:
    street: str
    number: int = 1


class Order(pydantic.BaseModel):
    item: str
    address: Address


class Options(typing_extensions.TypedDict, total=False):
    limit: int


class OldOptions(typing.TypedDict):
    limit: int


def rich(
    order: Order,
    size: Size,
    day: datetime.date,
    options: Options,
    unit: Literal["kg", 1] = "kg",
    tags: set[str] | None = None,
    limit: Annotated[int, pydantic.Field(ge=1, description="How many.")] = 3,
    note: str = pydantic.Field("none", description="What else.", max_length=5),
    words: Annotated[str, "Some words."] = "",
) -> Frame:
    """Order something.

    Args:
        order: What.
        size: How large.
        day: When.
        options: How.
        unit: Of weight.
        tags: Which.
    """
    assert isinstance(order.address, Address)
    return [order.item, order.address.number, size, day, options, unit, tags, limit, note, words]


def test_records_enums_dates_and_described_hints_are_parameters(call_tool: CallTool) -> None:
    given = {
        "order": {"item": "tea", "address": {"street": "High Street"}},
        "size": "l",
        "day": "2020-01-02",
        "options": {"limit": 2},
        "tags": ["b", "a"],
    }
    content = call_tool(rich, **given).content
    assert content == '["tea", 1, "l", "2020-01-02", {"limit": 2}, "kg", ["a", "b"], 3, "none", ""]'
    properties = tool(rich).schema["function"]["parameters"]["properties"]
    assert [properties[name]["description"] for name in ("limit", "note", "words")] == [
        "How many.",
        "What else.",
        "Some words.",
    ]
    assert (properties["limit"]["minimum"], properties["note"]["maxLength"]) == (1, 5)
    for wrong in (
        {"size": "m"},
        {"order": {"item": "tea"}},
        {"limit": 0},
        {"note": "too long"},
        {"options": {"limit": ""}},
    ):
        assert call_tool(rich, **{**given, **wrong}).failure == "invalid_arguments"


def typed(hint: Any, *default: Any) -> Any:
    """A function with one parameter of this type, and this default if one is given."""

    def look(x):  # type: ignore[no-untyped-def]
        """Look.

        Args:
            x: It.
        """
        return x

    look.__annotations__ = {"x": hint}
    look.__defaults__ = default or None
    return look


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (typed(OldOptions), "must be that of typing_extensions"),
        (typed(list[OldOptions]), "must be that of typing_extensions"),
        (typed(int, None), r"parameter 'x': its default None does not fit its type hint; write int \| None"),
        (typed(int, "three"), "its default 'three' does not fit its type hint"),
        (typed(float, math.inf), "its parameters cannot be shown to a model: Out of range float values"),
        (typed(Literal["a"], "b"), "its default 'b' does not fit"),
        (typed(Any, object()), "its parameters cannot be shown to a model: Default value <object"),
        (typed("int |"), "its type hints cannot be read"),
        (typed("datetime.dat"), "its type hints cannot be read: .*'dat'"),
        (typed("list['Unknown']"), "name 'Unknown' is not defined where its type hints are read"),
        (typed(Callable[[], int]), "has a type that JSON cannot express"),
        (typed(type), "has a type that JSON cannot express"),
    ],
    ids=lambda value: "",
)
def test_types_and_defaults_that_cannot_be_are_refused(function: Any, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        tool(function)


def test_hints_that_only_a_type_checker_sees_matter_for_parameters_only(call_tool: CallTool) -> None:
    def look(x: int, cart: Frame = per_episode(Cart)) -> Frame:
        """Look.

        Args:
            x: It.
        """
        return x

    assert call_tool(look, x=1).content == "1"


def test_a_default_list_is_each_calls_own(call_tool: CallTool) -> None:
    def grow(x: list[int] = []) -> list[int]:  # noqa: B006 - the author's mistake
        """Grow.

        Args:
            x: It.
        """
        x.append(1)
        return x

    entry = tool(grow)
    assert [call_tool(entry).content for _ in range(3)] == ["[1]"] * 3


@pytest.mark.parametrize(
    "docstring",
    [
        "Look.\n\nParameters\n----------\nx : int\n    It.\n",
        "Look.\n\n:param x: It.\n:type x: int\n",
        "Look.\n\nArguments:\n    x (int): It.\n",
    ],
)
def test_docstrings_of_other_styles_describe_parameters(docstring: str) -> None:
    def look(x: int) -> int:
        return x

    look.__doc__ = docstring
    function = tool(look).schema["function"]
    assert (function["description"], function["parameters"]["properties"]["x"]["description"]) == ("Look.", "It.")


# ---- arguments that no schema foresees


def test_arguments_beyond_what_json_or_python_writes_are_the_models_mistake() -> None:
    entry = tool(plain)
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for odd in (10**5000, nested, {1, 2}, math.nan, b"x"):
        with pytest.raises(ToolError, match="invalid arguments for plain"):
            entry.validate({"item": "x", "count": odd})
    with pytest.raises(ToolError, match="finite number"):
        tool(typed(float)).validate({"x": 10**400})
    while nested:
        nested = nested.pop()


def test_two_tools_with_the_same_name_are_refused_whatever_they_are_made_of() -> None:
    with pytest.raises(ConfigError, match="two tools are named 'plain'"):
        Toolbox([plain, tool(plain)])
    with pytest.raises(ConfigError, match="two tools are named 'plain'"):
        Toolbox([plain, functools.partial(plain, count=3)])
