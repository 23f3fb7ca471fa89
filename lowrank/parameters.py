"""Parameters of a chapter: declared once, checked in its first cell and by `python -m lowrank run`.

A chapter's `parameters` cell gives values; the next cell calls `require` once for each, with literal limits:

    require("weight_decay", weight_decay, float, above=0, maximum=0.2)

`declared` reads those calls without running them, so that a command line can refuse a bad value before a kernel starts.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from . import _require


class ParameterError(ValueError):
    """A chapter's parameter that is unknown, ill-typed or out of range; one line that names it."""


_KINDS = {"float": _require.number, "int": _require.integer, "str": _require.choice}
_PARSERS = {"float": float, "int": int, "str": str}


def require(name: str, value, kind: type, **limits) -> None:
    """Refuse a `value` that is not of `kind` or not within `limits`.

    Limits are those of the kind: above, minimum, maximum for float (λ, step sizes); minimum, maximum, even for int; options
    for str. Raises ParameterError: name, expected, got.
    """
    try:
        _KINDS[kind.__name__](name, value, **limits)
    except (TypeError, ValueError) as error:
        raise ParameterError(str(error)) from None


@dataclass(frozen=True)
class Declaration:
    """One `require` call as it stands in a chapter."""

    name: str
    kind: str
    limits: dict

    def parse(self, text: str):
        """The value that `text` stands for. Raises ParameterError naming the parameter, the expected and the given."""
        try:
            value = _PARSERS[self.kind](text)
        except ValueError:
            value = text
        require(self.name, value, {"float": float, "int": int, "str": str}[self.kind], **self.limits)
        return value


def declared(notebook) -> dict[str, Declaration]:
    """The parameters of a notebook (as nbformat reads it), from its `require` calls, in their order."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "require(" in cell.source:
            try:
                calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
                for call in calls:
                    if getattr(call.func, "id", None) == "require":
                        name, _, kind = call.args
                        limits = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                        found[name.value] = Declaration(name.value, kind.id, limits)
            except (SyntaxError, ValueError, AttributeError):
                raise ParameterError(
                    'CHAPTER: expected calls like require("name", name, float, above=0) with literal limits, got '
                    f"{cell.source.strip().splitlines()[0]!r}"
                ) from None
    return found


def parse(notebook, given: dict[str, str]) -> dict[str, object]:
    """Values for papermill from texts of a command line. Raises ParameterError for an unknown name or a bad value."""
    known = declared(notebook)
    if given and not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        raise ParameterError("CHAPTER: expected a cell tagged parameters, got a notebook without one")
    for name in given:
        if name not in known:
            raise ParameterError(f"{name}: expected one of {', '.join(known)}, got an unknown parameter")
    return {name: known[name].parse(text) for name, text in given.items()}
