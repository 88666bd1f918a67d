"""Pages that ask for nothing from outside and hold no script: one frame, and every text from a file is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

BASE, STYLE = "page_base.html", "page_style.css"


def render_page(
    template: str,
    package: str = "pipeline",
    style: str = "",
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **view: Any,
) -> str:
    """Makes a page from a template that extends `page_base.html`.

    Args:
        template: Name of a file of the package.
        package: "pipeline" or "flows".
        style: Name of a further style sheet of the package; "" for none.
        filters: Of the template, by name.
        **view: What the template shows; a name that it lacks is an error.

    Returns:
        HTML.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({BASE: _text("pipeline", BASE)}),
    )
    environment.filters |= dict(filters or {})
    sheets = _text("pipeline", STYLE) + (_text(package, style) if style else "")
    return environment.from_string(_text(package, template)).render(style=Markup(sheets), **view)


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
