"""Figure cards: under each figure, folded, what it was made of and where to get it.

    {site}/figures/NAME.csv, NAME-light.svg, NAME-dark.svg     and figures/index.json, which lists them

The card is part of the figure's HTML, wherever a page shows it, and has no ids; the one id, `code-NAME`, belongs to the
code of the cell that draws the figure, so that a browser opens the folded cell on the way there.
"""

from __future__ import annotations

import ast
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from docutils import nodes

import chapters

RANDOM = re.compile(r"\b(?:manual_seed|default_rng)\(([^()]*)\)")
FOLDER = "figures"


@dataclass(frozen=True)
class Figure:
    """A figure as a chapter's run gave it: its HTML, its data (see `lowrank.drawn`) and the lines that made it."""

    name: str
    execution: chapters.Execution
    markup: str
    data: list[dict]
    cell: int  # code cells count from 1, lines too
    lines: tuple[int, int]

    @property
    def files(self) -> tuple[str, str, str]:
        return f"{self.name}.csv", f"{self.name}-light.svg", f"{self.name}-dark.svg"

    @property
    def drawings(self) -> list[str]:
        """The panels, each an <svg> element."""
        return re.findall(r"<svg .*?</svg>", self.markup, flags=re.DOTALL)


def gather(executions: dict[str, chapters.Execution]) -> dict[str, Figure]:
    """All figures of these chapters by name. Raises ChapterError for a name given twice, with both places."""
    found: dict[str, Figure] = {}
    for execution in executions.values():
        code = [cell for cell in execution.notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, start=1):
            for output in cell.outputs:
                shown = output.get("metadata", {}).get("lowrank_figure")
                if not shown:
                    continue
                name, lines = shown["name"], drawing_lines(cell.source)
                if name in found:
                    other = found[name]
                    raise chapters.ChapterError(
                        f"{execution.name}, code cell {number}: expected a name of its own for each figure of the book, got "
                        f"{name}, which {other.execution.name}, code cell {other.cell}, has too; rename one of them"
                    )
                found[name] = Figure(name, execution, output["data"]["text/html"], shown.get("data", []), number, lines)
    return found


def drawing_lines(source: str) -> tuple[int, int]:
    """First and last line of what draws: the statements from the first that uses `figures` to `figures.show`."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic of IPython
        return 1, len(source.splitlines())
    using = [s for s in statements if any(isinstance(n, ast.Name) and n.id == "figures" for n in ast.walk(s))]
    return (using[0].lineno, using[-1].end_lineno) if using else (1, len(source.splitlines()))


def parameters(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Names and values of the cell tagged `parameters`, as run: where a name is set twice, the later value."""
    values = {}
    for statement in ast.parse(chapters.parameters(notebook)).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and getattr(statement, "value", None) is not None:
                values[target.id] = ast.literal_eval(statement.value)
    return values


def seeds(notebook: nbformat.NotebookNode) -> dict[str, int | None]:
    """What the chapter's generators start from, as written and as a number where parameters are enough to tell."""
    values = {name: value for name, value in parameters(notebook).items() if isinstance(value, int)}
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    found = {}
    for written in dict.fromkeys(match.strip() for match in RANDOM.findall(code)):
        try:
            names = {node.id for node in ast.walk(ast.parse(written, mode="eval")) if isinstance(node, ast.Name)}
            known = names <= values.keys()
            found[written] = int(eval(written, {"__builtins__": {}}, values)) if known else None  # of our own chapters
        except (SyntaxError, TypeError, ValueError, NameError):
            found[written] = None
    return found


def with_card(figure: Figure, *, root: str, page: str) -> str:
    """The figure's HTML with a link to its code and its card; `root` leads to the site's top, `page` to the chapter."""
    code = f"{page}#code-{figure.name}"
    markup = figure.markup.replace("</figcaption>", f' <a href="{code}">Code of this figure</a></figcaption>')
    return markup.replace("</figure>", f"{_card(figure, root=root, code=code)}</figure>")


def _card(figure: Figure, *, root: str, code: str) -> str:
    notebook = figure.execution.notebook
    data, light, dark = figure.files
    points = sum(len(one["value"]) * len(one["value"][0]) if "value" in one else len(one.get("x", one.get("y"))) for one in figure.data)
    first, last = figure.lines
    entries = {
        "Data": f"{_download(root, data)}: {_count(points, 'row')}, {_count(len(figure.data), 'series', 'series')} as drawn",
        "Drawing": f"{_download(root, light)}, {_download(root, dark)}",
        "Code": f'<a href="{code}">code cell {figure.cell}, lines {first}–{last}</a> of {html.escape(figure.execution.name)}',
        "Parameters": _listed(f"{name} = {value!r}" for name, value in parameters(notebook).items()),
        "Seeds": _listed(w if v is None or w == f"{v}" else f"{w} = {v}" for w, v in seeds(notebook).items()),
        "Run": f'the whole chapter in <span class="seconds">{figure.execution.seconds:.1f} s</span>, on one thread',
    }
    body = "".join(f"<dt>{name}</dt><dd>{entry}</dd>" for name, entry in entries.items())
    return f'<details class="figure-card"><summary>Data, files and parameters of this figure</summary><dl>{body}</dl></details>'


def _download(root: str, name: str) -> str:
    return f'<a href="{root}{FOLDER}/{name}" download>{name}</a>'


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _listed(texts) -> str:
    return ", ".join(f"<code>{html.escape(text)}</code>" for text in texts) or "none"


def mark_code(doctree: nodes.document, execution: chapters.Execution, figures: dict[str, Figure]) -> None:
    """Gives the code of each cell that draws the id of its figure, and numbers to its lines."""
    code = [index for index, cell in enumerate(execution.notebook.cells) if cell.cell_type == "code"]
    names = {}
    for figure in figures.values():
        if figure.execution.name == execution.name:
            names.setdefault(code[figure.cell - 1], []).append(figure.name)
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code" and cell["cell_index"] in names:
            block = next(cell.findall(nodes.literal_block))
            block["ids"] += [f"code-{name}" for name in names[cell["cell_index"]]]
            block["linenos"] = True


def write_files(outdir: Path, figures: dict[str, Figure]) -> None:
    """The files of all figures below `outdir`, each whole at every moment; none that is there already, none left over."""
    folder = outdir / FOLDER
    listing = {
        name: {"chapter": figure.execution.name, "key": figure.execution.key, "files": figure.files}
        for name, figure in figures.items()
    }
    index = folder / "index.json"
    text = json.dumps(listing, indent=1)
    expected = {"index.json", *(file for figure in figures.values() for file in figure.files)}
    present = {path.name for path in folder.glob("*")}
    if index.is_file() and index.read_text(encoding="utf-8") == text and present == expected:
        return
    from lowrank import drawn  # slow to import; a build that changes nothing does without
    from lowrank.figures import picture

    index.unlink(missing_ok=True)  # written last: an interrupted build starts over
    for figure in figures.values():
        data, light, dark = figure.files
        chapters.write_atomically(folder / data, drawn.table(figure.data))
        chapters.write_atomically(folder / light, picture(figure.drawings, mode="light"))
        chapters.write_atomically(folder / dark, picture(figure.drawings, mode="dark"))
    for name in present - expected:
        (folder / name).unlink()
    chapters.write_atomically(index, text)
