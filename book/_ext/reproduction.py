"""What two runs of a chapter must agree in, where they do not, and the page that says so.

    numbers(notebook)             the arrays: claims' records and figures' data, at full precision
    differences(first, second)    cell by cell, claim by claim, figure by figure, each with the largest difference
    on_machine(there, here)       what another machine shows otherwise
    standing(recorded, run)       whether a record still speaks of what this build ran

The record itself, `appendix/reproduce.json`, is written by `tools/reproduce.py`.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import comparison

RECORD = "appendix/reproduce.json"
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Difference:
    """One place where two runs differ; `size` is the largest |first − second| there, None where it is not of numbers."""

    where: str
    first: str
    second: str
    size: float | None

    def __str__(self) -> str:
        by = "" if self.size is None else f", by up to {self.size:.3g}"
        return f"{self.where}: {self.first} and {self.second}{by}"


def texts(notebook) -> dict[int, str]:
    """What each code cell (counted from 1) shows as text, figures by their alternative text."""
    shown = {}
    for number, cell in enumerate(_code(notebook), start=1):
        parts = []
        for output in cell.outputs:
            figure = "lowrank_figure" in output.get("metadata", {})
            data = output.get("data", {})
            parts += [output.text] if output.output_type == "stream" else []
            parts += [f"{data[kind]}" for kind in sorted(data, reverse=True) if not (figure and kind != "text/plain")]
        shown[number] = "\n".join(parts)
    return shown


def numbers(notebook) -> dict[str, dict]:
    """Records of the claims by label, and data of the figures by name."""
    claims, figures = {}, {}
    for output in _outputs(notebook):
        metadata = output.get("metadata", {})
        claims |= {record["label"]: record for record in metadata.get("lowrank_claims", [])}
        if "lowrank_figure" in metadata:
            figures[metadata["lowrank_figure"]["name"]] = metadata["lowrank_figure"].get("data", [])
    return {"claims": claims, "figures": figures}


def drawings(notebook) -> dict[str, str]:
    """The HTML of each figure by its name."""
    return {
        output["metadata"]["lowrank_figure"]["name"]: output["data"]["text/html"]
        for output in _outputs(notebook)
        if "lowrank_figure" in output.get("metadata", {})
    }


def digest(value) -> str:
    """Hash of what JSON can say, to the last bit."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def counts(notebook) -> dict[str, int]:
    """How much there is to compare."""
    both = numbers(notebook)
    leaves = [leaf for part in both.values() for leaf in _leaves(part).values()]
    return {
        "text outputs": sum(bool(text) for text in texts(notebook).values()),
        "claims": len(both["claims"]),
        "figures": len(both["figures"]),
        "numbers": sum(isinstance(leaf, (int, float)) and not isinstance(leaf, bool) for leaf in leaves),
    }


def differences(first, second) -> list[Difference]:
    """Where two runs of a chapter differ: a line for each cell's text, each claim and each figure; none if nowhere."""
    found = []
    old, new = texts(first), texts(second)
    for number in sorted(old.keys() | new.keys()):
        found += _of_text(f"code cell {number}", old.get(number), new.get(number))
    old, new = numbers(first), numbers(second)
    for kind, parts in (("claim", "claims"), ("data of figure", "figures")):
        for name in dict.fromkeys([*old[parts], *new[parts]]):
            found += _of_leaves(f"{kind} {name}", old[parts].get(name), new[parts].get(name))
    old, new = drawings(first), drawings(second)
    found += [
        Difference(f"drawing of figure {name}", f"{len(old[name]):,} characters", f"{len(new[name]):,} others", None)
        for name in old
        if name in new and old[name] != new[name]
    ]
    return found


def on_machine(there, here) -> dict:
    """A run elsewhere against one here: whether the arrays are the same; code cells that show another last digit; what
    differs by more than that; figures whose words do."""
    cells = [number for number, cell in enumerate(_code(here), start=1) if comparison.IGNORED not in cell.metadata.get("tags", [])]
    differences, shown = comparison.differences(there, here), [texts(notebook) for notebook in (there, here)]
    words = [{name: " ".join(BeautifulSoup(markup, "html.parser").get_text(" ").split()) for name, markup in drawings(notebook).items()} for notebook in (there, here)]
    return {
        "arrays": "the same" if digest(numbers(there)) == digest(numbers(here)) else "others",
        "last digits": [] if differences else [number for number in cells if shown[0][number] != shown[1][number]],
        "differences": differences,
        "figures": [name for name in words[1] if comparison.settled(words[0][name], words[1][name]) != words[1][name]],
    }


def _of_text(where: str, old: str | None, new: str | None) -> list[Difference]:
    if old == new:
        return []
    if old is None or new is None:
        return [Difference(where, "missing" if old is None else "there", "missing" if new is None else "there", None)]
    pairs = list(zip(NUMBER.findall(old), NUMBER.findall(new)))
    sizes = [abs(float(a) - float(b)) for a, b in pairs] if len(NUMBER.findall(old)) == len(NUMBER.findall(new)) else []
    lines = zip(old.splitlines() + [""], new.splitlines() + [""])
    a, b = next(((a, b) for a, b in lines if a != b), (old, new))
    start = max(len(os.path.commonprefix([a, b])) - 20, 0)
    return [Difference(where, _short(a[start:]), _short(b[start:]), max(sizes, default=None) or None)]


def _of_leaves(where: str, old, new) -> list[Difference]:
    if old is None or new is None:
        return [Difference(where, "missing" if old is None else "there", "missing" if new is None else "there", None)]
    a, b = _leaves(old), _leaves(new)
    changed = [path for path in dict.fromkeys([*a, *b]) if path not in a or path not in b or not _same(a[path], b[path])]
    if not changed:
        return []
    sizes = {path: abs(a[path] - b[path]) for path in changed if _is_number(a.get(path)) and _is_number(b.get(path))}
    worst = max(sizes, key=sizes.get) if sizes else changed[0]
    where = f"{where}, {len(changed)} of {len(a)} entries, most at {worst}"
    return [Difference(where, _short(a.get(worst, "missing")), _short(b.get(worst, "missing")), sizes.get(worst))]


def _leaves(value, path: str = "") -> dict[str, object]:
    """Every leaf of nested dicts and lists by its path."""
    if isinstance(value, dict):
        items = [(f"{path}.{name}" if path else f"{name}", part) for name, part in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {path: value}
    return {where: leaf for inner, part in items for where, leaf in _leaves(part, inner).items()}


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(a, b) -> bool:
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or (a == b and type(a) is type(b))


def _short(value, length: int = 80) -> str:
    text = " ".join(str(value).split())
    return repr(value) if _is_number(value) else f"“{text if len(text) <= length else text[: length - 1] + '…'}”"


def _code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook) -> list:
    return [output for cell in _code(notebook) for output in cell.outputs]


def standing(recorded: dict | None, execution) -> str:
    """Whether the record of a chapter, or None, speaks of this execution of it."""
    if recorded is None:
        return "not in the record"
    same_code = recorded["key"] == execution.key
    same_numbers = recorded["arrays"] == digest(numbers(execution.notebook))
    if same_code:
        return "the same arrays" if same_numbers else "other arrays from the same code, as on another machine"
    return "the same arrays, though the code changed since" if same_numbers else "code, parameters or libraries changed since"


class Reproduce(SphinxDirective):
    """The record of two builds as tables, and whether it speaks of this build; with `machines`, what imitated ones show."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / RECORD
        executions = self.env.app.lowrank_executions
        if not path.is_file():
            words = "No record is stored: nobody has yet compared two builds of this version. "
            return [nodes.paragraph("", "", nodes.strong("", words), nodes.literal("", "make reproduce"), nodes.Text(" writes one."))]
        record = json.loads(path.read_text(encoding="utf-8"))
        markup = _machines(record) if self.arguments == ["machines"] else _rendered(record, executions)
        return [nodes.raw("", markup, format="html")]


def _machines(record: dict) -> str:
    """A column for each imitated machine: what its chapters show otherwise."""
    recorded = record["chapters"]
    if not record.get("machines"):
        return "<p>The stored record imitates no other machine: it was made by an older version.</p>"
    there = [chapter["machines"][machine] for chapter in recorded.values() for machine in record["machines"]]
    wrong = sum(bool(one["differences"]) for one in there)
    verdict = f"{wrong} of {len(there)} runs show other texts." if wrong else f"All {len(there)} runs show the same texts, and no claim failed."
    counts = f"{sum(one['arrays'] == 'others' for one in there)} of them computed other arrays; {sum(bool(one['last digits']) for one in there)} show another last digit somewhere."
    rows = [(name, *(_otherwise(chapter["machines"][machine]) for machine in record["machines"])) for name, chapter in recorded.items()]
    settings = [(machine, " ".join(f"{name}={value}" for name, value in environment.items())) for machine, environment in record["machines"].items()]
    return "\n".join([
        f"<p><strong>{verdict}</strong> {counts}</p>",
        _table(("chapter", *(f"instructions up to {machine}" for machine in record["machines"])), rows),
        "<p>How each is imitated:</p>",
        _table(("instructions up to", "environment"), settings),
    ])  # fmt: skip


def _otherwise(there: dict) -> str:
    """One run in words."""
    if there["differences"]:
        return "; ".join(there["differences"])
    text = f"another last digit in code cell {', '.join(map(str, there['last digits']))}" if there["last digits"] else "the same texts"
    figures = f"; other digits in the words of {', '.join(there['figures'])}" if there["figures"] else ""
    return f"{text}; {'the same arrays' if there['arrays'] == 'the same' else 'other arrays'}{figures}"


def _rendered(record: dict, executions: dict) -> str:
    recorded = record["chapters"]
    differ = [name for name, chapter in recorded.items() if chapter["outcome"] != "identical"] + record["pages"]["differ"]
    total = {what: sum(chapter["compared"][what] for chapter in recorded.values()) for what in next(iter(recorded.values()))["compared"]}
    compared = ", ".join(f"{number:,} {what}" for what, number in total.items()) + f", {record['pages']['compared']} pages"
    verdict = f"The two builds differ in {', '.join(differ)}." if differ else "The two builds are identical."
    older = sum(execution.key != recorded.get(name, {}).get("key") for name, execution in executions.items())
    if older:
        verdict += f" They are of an earlier version: {older} of {len(executions)} chapters, or what they use, have changed since."
    standings = {name: standing(recorded.get(name), execution) for name, execution in executions.items()}
    same = sum("the same arrays" in words for words in standings.values())
    gone = [name for name in recorded if name not in executions]
    parts = [
        f"<p><strong>{html.escape(verdict)}</strong> Compared: {compared}.</p>",
        f"<p>What this build ran: {same} of {len(standings)} chapters gave the arrays that the record has, to the last bit."
        + (f" Only in the record: {html.escape(', '.join(gone))}." if gone else "") + "</p>",
        _table(
            ("chapter", "two builds", "this build", "numbers compared", "seconds", "hash of its arrays"),
            [
                (name, chapter["outcome"], standings.get(name, "has no such chapter"), f"{chapter['compared']['numbers']:,}",
                 " and ".join(f"{seconds:.1f}" for seconds in chapter["seconds"]), chapter["arrays"][:12])
                for name, chapter in recorded.items()
            ] + [(name, "not compared", words, "", "", "") for name, words in standings.items() if name not in recorded],
        ),
    ]  # fmt: skip
    found = [(name, line) for name, chapter in recorded.items() for line in chapter["differences"]]
    if found:
        parts.append(_table(("chapter", "what differs"), found))
    settings = [
        (name, ", ".join(f"{key} = {value}" for key, value in chapter["parameters"].items()), ", ".join(chapter["seeds"]))
        for name, chapter in recorded.items()
    ]
    hardware = {"date": record["date"], "commit": record["commit"], **record["hardware"]}
    hardware["seconds of each build"] = " and ".join(f"{seconds:.0f}" for seconds in record["seconds"])
    parts += [
        "<p>With these parameters, and generators that start from these seeds:</p>",
        _table(("chapter", "parameters", "seeds"), settings),
        "<p>Where, and with which versions:</p>",
        _table(("what", "value"), [*hardware.items(), *record["versions"].items()]),
    ]
    return "\n".join(parts)


def _table(head: tuple, rows: list[tuple]) -> str:
    def row(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="claims-scroll"><table class="claims reproduce"><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'
