"""Displays: `display()`, rich representations of values, figures. Standard library only.

The representations are those of Jupyter's `_repr_*_` methods
(https://ipython.readthedocs.io/en/stable/config/integrating.html); matplotlib figures, which have none,
become PNG images. Runs where the code runs.
"""

import base64
import importlib
import json
import sys
import types
from collections.abc import Callable
from typing import Any

from toolrl.sandbox.inside.ipython import DisplayHandle

FORMS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_json_": "application/json",
}
CHART = "e2b/chart"  # as E2B's kernels call it
_BACKEND = "sandbox_figures"


class Displays:
    """Collects the displays of a run.

    Attributes:
        further_forms: Functions that return additional representations of a value, by MIME type, as text.
    """

    def __init__(self) -> None:
        self.further_forms: list[Callable[[object], dict[str, str]]] = []
        self.begin(0)

    def begin(self, limit: int) -> None:
        """Start a new run, whose displays may take `limit` bytes of JSON."""
        self._limit = limit
        self._shown: list[dict[str, Any]] = []
        self._places: dict[str, dict[str, Any]] = {}  # by name
        self._size, self._overflowed = 0, False

    def taken(self) -> tuple[list[dict[str, Any]], bool]:
        """The displays, as {"data": {MIME type: text}, "is_result": bool}, and whether some were left out."""
        return self._shown, self._overflowed

    def display(
        self,
        *values: object,
        include: Any = None,
        exclude: Any = None,
        raw: bool = False,
        display_id: Any = None,
        **_: object,
    ) -> DisplayHandle | None:
        """Show values in all their representations, like `IPython.display.display` in a notebook.

        Args:
            values: The values to show.
            include: MIME types to include; all if None.
            exclude: MIME types to exclude.
            raw: Whether the values are dicts of representations by MIME type.
            display_id: Name of a display that later calls can replace; True generates one.

        Returns:
            A handle to replace the display, if it has a name.
        """
        place = None if display_id is None else str(display_id)
        if display_id is True:
            place = f"{len(self._places)}-{id(values)}"
        for value in values:
            bundle = dict(_raw(value)) if raw else self._bundle(value)
            kept = {mime: data for mime, data in bundle.items() if not include or mime in include}
            self._show({mime: data for mime, data in kept.items() if mime not in (exclude or ())}, False, place)
        return DisplayHandle(self.display, place) if place else None

    def show_result(self, value: object) -> str:
        """Return `repr` of the last expression's value; also display it if it has other representations."""
        bundle = self._bundle(value)
        if len(bundle) > 1:
            self._show(bundle, True)
        return bundle["text/plain"]

    @property
    def may_have_figures(self) -> bool:
        """Whether the code has imported matplotlib's pyplot."""
        return "matplotlib.pyplot" in sys.modules

    def show_figures(self, *arguments: object, **options: object) -> None:
        """Show and close all open figures of pyplot; `pyplot.show` calls this too."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            pyplot.close(figure)
            self.display(figure)

    def take_over_figures(self) -> None:
        """Direct `pyplot.show` here, if matplotlib has been imported."""
        agg = sys.modules.get("matplotlib.backends.backend_agg")
        if agg is not None:
            backend = sys.modules[_BACKEND] = types.ModuleType(_BACKEND)
            vars(backend).update(FigureCanvas=agg.FigureCanvasAgg, show=self.show_figures)
            sys.modules["matplotlib"].use(f"module://{_BACKEND}")

    def _bundle(self, value: object) -> dict[str, str]:
        forms = _bundle(value)
        for further in self.further_forms:
            try:
                found = further(value)
            except Exception:  # noqa: BLE001  left out, as in Jupyter
                continue
            if sum(map(len, found.values())) <= self._limit // 2:
                forms = found | forms
        return forms

    def _show(self, bundle: dict[str, str], is_result: bool, place: str | None = None) -> None:
        shown = {"data": bundle, "is_result": is_result}
        earlier = self._places.get(place) if place is not None else None
        size = self._size + len(json.dumps(shown)) - (len(json.dumps(earlier)) if earlier else 0)
        if size > self._limit:
            self._overflowed = True
            return
        self._size = size
        if earlier is not None:
            earlier.update(shown)
        else:
            self._shown.append(shown)
            if place is not None:
                self._places[place] = shown


def _bundle(value: object) -> dict[str, str]:
    """All representations of a value by MIME type: images as base64, JSON as text. Failing ones are left out."""
    forms: dict[str, str] = {"text/plain": repr(value)}
    if isinstance(value, type):
        return forms
    bundle = _form(value, "_repr_mimebundle_") or {}
    found = {mime: _form(value, method) for method, mime in FORMS.items() if mime not in bundle}
    for mime, data in (bundle | found).items():
        if data is not None:
            forms[mime] = _as_text(mime, data)
    figure = sys.modules.get("matplotlib.figure")
    if figure is not None and isinstance(value, figure.Figure):
        forms["image/png"] = _as_text("image/png", _figure_as_png(value))
        forms |= _chart_of(value)
    return forms


def _raw(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"with raw=True, display() takes dicts by MIME type, got {type(value).__name__}")
    return {str(mime): _as_text(str(mime), data) for mime, data in value.items()}


def _form(value: object, method: str) -> Any:
    function = getattr(type(value), method, None)  # on the type: some objects have every attribute
    if not callable(function):
        return None
    try:
        form = function(value)
    except Exception:  # noqa: BLE001  as in Jupyter, which then uses the other representations
        return None
    return form[0] if isinstance(form, tuple) else form  # the rest is metadata


def _as_text(mime: str, data: Any) -> str:
    if isinstance(data, bytes):
        return base64.b64encode(data).decode()
    text = json.dumps(data) if mime.endswith("json") and not isinstance(data, str) else str(data)
    return text.encode("utf-8", "replace").decode()


def _chart_of(figure: Any) -> dict[str, str]:
    """The data of a figure, as extracted by E2B's package `e2b-charts` if that is installed."""
    try:
        chart = importlib.import_module("e2b_charts").chart_figure_to_dict(figure)
        return {CHART: json.dumps(chart, default=str)} if chart else {}
    except Exception:  # noqa: BLE001  not installed, or an unsupported figure: the image remains
        return {}


def _figure_as_png(figure: Any) -> bytes:
    import io

    with io.BytesIO() as file:
        figure.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()
