"""The ledger: every claim of this build as data, and the tables, strips and words that quote it.

    builder-inited     chapters have run: their claims, the statements of the text and the abstract's rows become one
                       document, which must fit book/_static/claims.schema.json
    while reading      {ledger} summary|unchecked|table, {mutations}, {abstract-table}, {status-strip}, {verdict}
    build-finished     claims.json, claims.csv and the schema appear beside the pages
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import jsonschema
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

import chapters
import ledger_page
import mutation_record
from statements import statements, text_cells

SCHEMA = Path(__file__).parent.parent / "_static" / "claims.schema.json"
ABSTRACT = "abstract.yml"
_LABEL = re.compile(r"\{([^{}]+)\}")


class LedgerError(Exception):
    """What the ledger refuses: where, what was expected, what came, and the remedy."""


def gather_claims(app: Sphinx) -> list[dict]:
    """Every claim of this build with its chapter and that chapter's seconds, in the order of the book."""
    return [
        {"chapter": name, "seconds": execution.seconds, **claim}
        for name, execution in app.lowrank_executions.items()
        for claim in execution.claims
    ]


def read_abstract(path: Path, labels: set[str]) -> dict:
    """`rows` of the file, checked against the `labels` of the book's claims, and short `chapters`' names; none without a file.

    Raises LedgerError for a row that quotes no claim and does not say why, or quotes one that does not exist.
    """
    if not path.is_file():
        return {"chapters": {}, "rows": []}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for index, row in enumerate(content["rows"], start=1):
        where = f"{path.name}, row {index} ({row.get('claim', 'without claim')})"
        if not row.get("claim") or set(row) - {"claim", "verdict", "stated_only"}:
            raise LedgerError(f"{where}: expected claim and verdict or stated_only, got {', '.join(row)}")
        quoted = list(dict.fromkeys(_LABEL.findall(row.get("verdict", ""))))
        if bool(quoted) == bool(row.get("stated_only")) or ("verdict" in row and not quoted):
            raise LedgerError(
                f"{where}: expected either a verdict with the {{label}} of a claim, or stated_only with the reason; "
                f"got {'both' if quoted else 'neither'}"
            )
        unknown = [label for label in quoted if label not in labels]
        if unknown:
            raise LedgerError(f"{where}: no claim of this build is labelled {', '.join(unknown)}; correct it or use stated_only")
        rows.append({"claim": row["claim"], "verdict": row.get("verdict"), "labels": quoted, "stated_only": row.get("stated_only")})
    return {"chapters": content.get("chapters", {}), "rows": rows}


def assemble(claims: list[dict], stated: list, abstract: dict, versions: dict[str, str]) -> dict:
    """The whole ledger as one document that fits the schema.

    Raises LedgerError for a claim about a statement that is not in the text, and for what the schema refuses.
    """
    listed = [
        {"label": s.label, "kind": s.kind, "title": s.title, "chapter": s.chapter, "proof": bool(s.proof.strip())}
        for s in stated
        if s.kind != "definition"
    ]
    known = {statement["label"] for statement in listed}
    for claim in claims:
        unknown = [label for label in claim["theorems"] if label not in known]
        if unknown:
            raise LedgerError(
                f"{claim['chapter']}, claim {claim['label']}: theorem {', '.join(unknown)} is no statement of the text; "
                "expected the label of a {prf:theorem}, proposition, lemma or corollary"
            )
    document = {
        "$schema": SCHEMA.name,
        "versions": versions,
        "abstract": [{key: row[key] for key in ("claim", "labels", "stated_only")} for row in abstract["rows"]],
        "statements": listed,
        "claims": claims,
    }
    validate(document)
    return document


def validate(document: dict) -> None:
    """Raises LedgerError, with the place and what was expected there, unless `document` fits the published schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if fault is not None:
        place = fault.json_path
        if len(fault.absolute_path) > 1 and fault.absolute_path[0] == "claims":
            place += f" (claim {document['claims'][fault.absolute_path[1]].get('label')})"
        raise LedgerError(f"claims.json, {place}: {fault.message[:300]}; correct the record or {SCHEMA.name}")


def as_csv(document: dict) -> str:
    """The claims one row each, at full precision; empty where claims.json has null."""
    rows = [_flat(claim) for claim in document["claims"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_flat_names()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(claim: dict) -> dict:
    control, enclosed = claim["control"] or {}, claim["enclosed"] or {}
    same = {name: claim[name] for name in _SAME}
    return {
        **same,
        "slack": None if None in claim["slack"] else min(claim["slack"]),
        "tightness_worst": claim["tightness"]["worst"],
        "tightness_median": claim["tightness"]["median"],
        "theorems": " ".join(claim["theorems"]),
        "enclosed_proved": enclosed.get("proved"),
        "enclosed_of": enclosed.get("of"),
        "premises": "; ".join(f"{premise['label']}: {premise['verdict']}" for premise in claim["premises"]),
        "control": control.get("label"),
        "control_failing_members": control.get("failing_members"),
        "control_members": control.get("members"),
        "control_noticed": control.get("noticed"),
    }


_SAME = ("chapter", "label", "statement", "relation", "lhs", "rhs", "tolerance", "members", "comparisons", "verdict", "seconds")


def _flat_names() -> tuple[str, ...]:
    return (
        *_SAME, "slack", "tightness_worst", "tightness_median", "theorems", "enclosed_proved", "enclosed_of", "premises",
        "control", "control_failing_members", "control_members", "control_noticed",
    )  # fmt: skip


def prepare(app: Sphinx) -> None:
    """Puts the ledger together before any page is read; what it refuses ends the build, as a failing chapter does."""
    source = Path(app.srcdir)
    claims = gather_claims(app)
    pages = [source / f"{name}{ending}" for name in app.config.external_site_map for ending in (".ipynb", ".md")]
    stated, titles = [], {}
    for path in filter(Path.is_file, pages):
        name, cells = path.relative_to(source).with_suffix("").as_posix(), text_cells(path)
        titles[name] = re.search(r"^# (.+)$|\Z", "\n".join(cells), re.MULTILINE)[1] or name
        stated += statements(name, cells)
    try:
        app.lowrank_abstract = read_abstract(source / ABSTRACT, {claim["label"] for claim in claims})
        app.lowrank_ledger = assemble(claims, stated, app.lowrank_abstract, chapters.versions())
    except LedgerError as error:
        raise SystemExit(f"Ledger: {error}") from None
    app.lowrank_titles = {**titles, **app.lowrank_abstract["chapters"]}


def quoted(app: Sphinx) -> str:
    """All that pages quote of the ledger: once this text has changed, they are read again."""
    return json.dumps([app.lowrank_ledger, app.lowrank_abstract, app.lowrank_titles])


def write(app: Sphinx) -> None:
    """claims.json, claims.csv and their schema, beside the pages."""
    folder = Path(app.outdir)
    chapters.write_atomically(folder / "claims.json", json.dumps(app.lowrank_ledger, indent=1, allow_nan=False))
    chapters.write_atomically(folder / "claims.csv", as_csv(app.lowrank_ledger))
    chapters.write_atomically(folder / SCHEMA.name, SCHEMA.read_text(encoding="utf-8"))


class Ledger(SphinxDirective):
    """A part of the ledger's page: `summary`, `unchecked` or `table`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        parts = {"summary": ledger_page.summary, "unchecked": ledger_page.unchecked, "table": ledger_page.table}
        (part,) = self.arguments
        if part not in parts:
            raise self.error(f"ledger: expected one of {', '.join(parts)}, got {part}")
        app = self.env.app
        markup = parts[part](app.lowrank_ledger, titles=app.lowrank_titles, link=_linker(self.env))
        return [nodes.raw("", markup, format="html")]


class Mutations(SphinxDirective):
    """The record of wrong versions of the package and what noticed them; a sentence where there is none."""

    def run(self) -> list[nodes.Node]:
        app, path = self.env.app, Path(self.env.srcdir) / mutation_record.RECORD
        if not path.is_file():
            words = "No record is stored: nobody has yet broken this version on purpose."
            return [nodes.paragraph("", "", nodes.strong("", words))]
        markup = mutation_record.rendered(
            json.loads(path.read_text(encoding="utf-8")), path.parents[2] / "lowrank", titles=app.lowrank_titles, link=_linker(self.env),
            chapter_of={claim["label"]: claim["chapter"] for claim in app.lowrank_ledger["claims"]},
        )  # fmt: skip
        return [nodes.raw("", markup, format="html")]


class AbstractTable(SphinxDirective):
    """The abstract's claims beside the verdicts of this build, from abstract.yml."""

    def run(self) -> list[nodes.Node]:
        app = self.env.app
        chapter_of = {claim["label"]: claim["chapter"] for claim in app.lowrank_ledger["claims"]}
        lines = [":::{list-table}", ":header-rows: 1", ":widths: 46 34 20", "", "* - Claim", "  - Verdict", "  - Chapter"]
        for row in app.lowrank_abstract["rows"]:
            named = dict.fromkeys(chapter_of[label] for label in row["labels"])
            quotes = _LABEL.sub(r"{verdict}`\1`", row["verdict"]) if row["labels"] else "stated only"
            lines += [
                f"* - {row['claim']}",
                f"  - {quotes}",
                f"  - {', '.join(f'[{app.lowrank_titles[name]}](/{name}.ipynb)' for name in named) or 'none yet'}",
            ]
        container = nodes.container(classes=["abstract-table"])
        self.state.nested_parse(StringList([*lines, ":::"], source=ABSTRACT), self.content_offset, container)
        return [container]


class StatusStrip(SphinxDirective):
    """Verdicts of this chapter's claims, members and controls; the body says what would falsify it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        app, name = self.env.app, self.env.docname
        claims = [claim for claim in app.lowrank_ledger["claims"] if claim["chapter"] == name]
        strip = nodes.container(classes=["status-strip"])
        line = nodes.paragraph("", "", nodes.strong("", "Verdict of this build: "), nodes.Text(ledger_page.strip(claims) + "."))
        if ledger_page.PAGE in self.env.found_docs:
            page = app.builder.get_relative_uri(name, ledger_page.PAGE)
            line += [nodes.Text(" "), nodes.reference("", "In the ledger", refuri=f"{page}?chapter={name}"), nodes.Text(".")]
        falsified = nodes.paragraph("", "", nodes.strong("", "What would falsify it: "))
        parsed, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        falsified += parsed
        strip += [line, falsified, *messages]
        return [strip]


class Verdict(SphinxRole):
    """The verdict of the claim with this label in this build, and its interval proofs, as a link to its row."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        for claim in self.env.app.lowrank_ledger["claims"]:
            if claim["label"] == self.text:
                address = _linker(self.env)(claim["chapter"], f"claim-{self.text}")
                enclosed = claim["enclosed"]
                proofs = f", enclosed {enclosed['proved']} of {enclosed['of']}" if enclosed else ""
                return [nodes.reference("", claim["verdict"] + proofs, refuri=address)], []
        message = self.inliner.reporter.error(f"verdict: no claim of this build is labelled {self.text}", line=self.lineno)
        return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


def _linker(env):
    """The address of an anchor of a page, as seen from the page that is being read."""
    return lambda name, anchor: f"{env.app.builder.get_relative_uri(env.docname, name)}#{html.escape(anchor)}"


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", prepare, priority=600)  # after run_chapters
    app.add_directive("ledger", Ledger)
    app.add_directive("mutations", Mutations)
    app.add_directive("abstract-table", AbstractTable)
    app.add_directive("status-strip", StatusStrip)
    app.add_role("verdict", Verdict())
    app.add_js_file("ledger.js", loading_method="defer")
