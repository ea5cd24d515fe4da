"""Self-contained HTML pages with one style sheet for reports and studies."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from genrank.errors import MissingExtraError


def require(*, extra: str) -> None:
    """MissingExtraError, naming the `extra`, without Jinja2 and matplotlib."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as problem:
        raise MissingExtraError(f"the page needs {problem.name}; pip install 'genrank[{extra}]'") from None


def render(room: str, template: str, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The page made from `template`, a file of the package `room`, with `values` and the style sheet as `style`."""
    import jinja2
    from markupsafe import Markup

    style = Markup(files("genrank.evaluation").joinpath("page.css").read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters or {}
    source = files(room).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(style=style, **values)
