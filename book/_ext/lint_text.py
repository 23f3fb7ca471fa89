"""Rules about what the text states and shows: statements and claims, figures, references."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote

import statements as stated
from lint_model import Book, Cell, Chapter, Violation, called, dotted, keyword

NEED_CLAIMS = ("theorem", "proposition", "lemma", "corollary")


def _statements(chapter: Chapter) -> list[stated.Statement]:
    return stated.statements(chapter.name, [cell.source for cell in chapter.text_cells])


def _at(chapter: Chapter, text: str, start: int = 0) -> tuple[Cell, int]:
    """The first text cell that has `text`, and where; the first cell if none has."""
    for cell in chapter.text_cells:
        if text and text in cell.source:
            return cell, cell.source.index(text)
    return chapter.cells[0], 0


# --- statements and claims --------------------------------------------------------------------------------------------------


def statements_without_entry(chapter: Chapter, book: Book) -> list[Violation]:
    """A theorem, proposition, lemma or corollary that no claim of the build checks. Silent where some chapter has not run."""
    if not book.executed:
        return []
    checked = {label for claim in book.claims for label in claim.get("theorems", ())}
    return [
        chapter.violation(
            chapter.text_cells[s.cell - 1], f"{s.kind} {s.label or s.title!r} has no ledger entry",
            f'check it and write check(..., theorem="{s.label}"), or call it a conjecture' if s.label
            else "give it a :label: and name that in check(..., theorem=...)",
            offset=_at(chapter, s.label or s.title)[1],
        )
        for s in _statements(chapter) if s.kind in NEED_CLAIMS and (not s.label or s.label not in checked)
    ]  # fmt: skip


def statements_without_proof(chapter: Chapter, book: Book) -> list[Violation]:
    """A theorem, proposition, lemma or corollary without a proof in its chapter; a proof that does not say of what."""
    found = [
        chapter.violation(
            chapter.text_cells[s.cell - 1], f"{s.kind} {s.label or s.title!r} has no proof in the text",
            f"add a {{prf:proof}} block that begins ({{prf:ref}}`{s.label or 'its label'}`), or call it a conjecture",
            offset=_at(chapter, s.label or s.title)[1],
        )
        for s in _statements(chapter) if s.kind in NEED_CLAIMS and not _says_something(s.proof)
    ]  # fmt: skip
    labels = {s.label for s in _statements(chapter)}
    for proof in stated.proofs([cell.source for cell in chapter.text_cells]):
        if not proof.label or proof.label not in labels:
            what = f"proof of {proof.label}, which this page does not state" if proof.label else "proof that does not say what it proves"
            found.append(chapter.violation(
                chapter.text_cells[proof.cell - 1], f'{what} ("{" ".join(proof.text.split())[:48]}…")',
                "begin it with ({prf:ref}`label`) of a statement of this page",
            ))  # fmt: skip
    return found


def _says_something(proof: str) -> bool:
    """Whether a proof has words beside the reference that it opens with."""
    return bool(re.sub(r"\(\{prf:ref\}`[^`]*`\)", "", proof).strip(" .…\n")) and not re.search(r"\bTODO\b|\bomitted\b", proof)


def claims_without_control(chapter: Chapter, book: Book) -> list[Violation]:
    """A claim with no control, or with one that passes for some member."""
    found = []
    for cell, _, records in chapter.outputs("lowrank_claims"):
        for claim in records:
            control = claim.get("control")
            if not control:
                found.append(chapter.violation(
                    cell, f"claim {claim['label']} has no control",
                    "add control=check(...): the same check with a premise broken, which must fail for every member",
                ))  # fmt: skip
            elif not control.get("noticed"):
                found.append(chapter.violation(
                    cell, f"claim {claim['label']}: its control {control['label']!r} fails for {control.get('failing_members', 0)} of "
                    f"{control['members']} members only", "break a premise that matters to every member, or tighten the claim",
                ))  # fmt: skip
    return found


def claims_of_unknown_statements(chapter: Chapter, book: Book) -> list[Violation]:
    """A claim that names a statement which no page states."""
    labels = {s.label for page in book.chapters for s in _statements(page)}
    return [
        chapter.violation(cell, f"claim {claim['label']} names {label}, which no page states",
                          "write the :label: of a statement in theorem=, or state it")
        for cell, _, records in chapter.outputs("lowrank_claims")
        for claim in records
        for label in claim.get("theorems", ())
        if label not in labels
    ]  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------------

_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<address>[^)\s]+)")
_TAG = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
_SHOW = "end the cell with figures.show(*axes, name=..., alt=..., caption=...)"
_SENTENCE = "give figures.show(..., {}=...) a sentence computed from the data"
_PICTURES = ("image/png", "image/svg+xml", "image/jpeg", "image/gif", "application/pdf")


def figures_without_words(chapter: Chapter, book: Book) -> list[Violation]:
    """A figure without caption, alternative text or link to its code: in the code, in its output, or an image in the text."""
    found = []

    def complain(cell, what, remedy, offset=None):
        found.append(chapter.violation(cell, what, remedy, offset=offset))

    for cell in chapter.code_cells:
        for node in ast.walk(cell.tree) if cell.tree else ():
            if isinstance(node, ast.Call) and dotted(node.func).endswith("figures.show"):
                name = keyword(node, "name")
                name = name.value if isinstance(name, ast.Constant) else "without a name"
                for part, words in (("alt", "alternative text"), ("caption", "caption")):
                    value = keyword(node, part)
                    if value is None or (isinstance(value, ast.Constant) and not str(value.value).strip()):
                        complain(cell, f"figure {name} has no {words}", _SENTENCE.format(part))
                for tag in {"remove-cell", "remove-input"} & set(cell.tags):
                    complain(cell, f"figure {name} has no link to its code, which the tag {tag} removes", "tag the cell hide-input")
            elif isinstance(node, ast.Call) and (dotted(node.func) in ("plt.show", "plt.savefig") or called(node) == "savefig"):
                complain(cell, f"{dotted(node.func)} shows a figure without caption and alternative text", _SHOW)
        for output in cell.outputs:
            shown = output.get("metadata", {}).get("lowrank_figure")
            if shown is None:
                if any(mime in output.get("data", {}) for mime in _PICTURES):
                    complain(cell, "a picture among the outputs has no caption, alternative text and link to its code", _SHOW)
                continue
            for part, words in (("alt", "alternative text"), ("caption", "caption")):
                if not str(shown.get(part, "")).strip():
                    complain(cell, f"figure {shown.get('name')} has no {words}", _SENTENCE.format(part))
            if "</figcaption>" not in "".join(output.get("data", {}).get("text/html", "")):
                complain(cell, f"figure {shown.get('name')} has no caption in its markup, where the link to its code goes", "show it by figures.show")
    for cell in chapter.text_cells:
        text = without_code(cell.source)
        for image in _IMAGE.finditer(text):
            if not image["alt"].strip():
                complain(cell, f"image {image['address']} has no alternative text", "write what it shows between the brackets: ![...](...)", image.start())
        for tag in _TAG.finditer(text):
            if not re.search(r"""\balt=(?:"[^"]*\w[^"]*"|'[^']*\w[^']*')""", tag[0]):
                complain(cell, f"{tag[0][:60]} has no alternative text", 'write alt="..."', tag.start())
        for block in stated.blocks(cell.source):
            if block.name in ("figure", "image"):
                offset = max(cell.source.find(block.argument), 0)
                if not block.options.get("alt", "").strip():
                    complain(cell, f"{block.name} {block.argument} has no alternative text", "add a line :alt: that says what it shows", offset)
                if block.name == "figure" and not block.body.strip():
                    complain(cell, f"figure {block.argument} has no caption", "write the caption as the body of the block", offset)
            elif block.name == "chapter-figure":
                page, _, name = block.argument.partition(" ")
                if book.executed and name.strip() not in _figures_of(book, page):
                    offset = max(cell.source.find(block.argument), 0)
                    complain(cell, f"chapter-figure {block.argument} shows nothing", "name a chapter and one of its figures", offset)
    return found


def _figures_of(book: Book, name: str) -> set[str]:
    return {entry["name"] for page in book.chapters if page.name == name for _, _, entry in page.outputs("lowrank_figure")}


# --- references -------------------------------------------------------------------------------------------------------------

_ROLE = re.compile(r"\{(?P<role>[\w:.+-]+)\}`(?P<content>[^`]+)`")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?(?P<address>[^()\s>]*)>?[^()]*\)")
_LABELS = (
    re.compile(r"^[ \t]*:(?:label|name):[ \t]*(\S+)[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*\(([\w:.-]+)\)=[ \t]*$", re.MULTILINE),
    re.compile(r"\$\$[ \t]*\(([\w:.-]+)\)[ \t]*$", re.MULTILINE),
    re.compile(r"\\label\{([^}]+)\}"),
    re.compile(r"\bid=[\"']([^\"']+)[\"']"),
)


def broken_references(chapter: Chapter, book: Book) -> list[Violation]:
    """A reference to a label, claim, glued value, citation, page or file that does not exist, as far as text can tell."""
    targets = _Targets(chapter, book)
    found = []
    for cell in chapter.text_cells:
        text = without_code(cell.source)
        for role in _ROLE.finditer(text):
            for what, remedy in targets.missing(role["role"], role["content"]):
                found.append(chapter.violation(cell, f"{{{role['role']}}} to {what}, which does not exist", remedy, offset=role.start()))
        for link in _LINK.finditer(re.sub(r"`[^`\n]*`", lambda m: " " * len(m[0]), text)):
            problem = targets.missing_address(link["address"])
            if problem:
                found.append(chapter.violation(cell, f"link to {link['address'] or 'nothing'}, which does not exist", problem, offset=link.start()))
    return found


class _Targets:
    """What references of one page can point at."""

    def __init__(self, chapter: Chapter, book: Book):
        self.chapter, self.book = chapter, book
        self.labels = {page.name: _labels_of(page) for page in book.chapters}
        self.everywhere = set().union(*self.labels.values())
        self.statements = {s.label for page in book.chapters for s in _statements(page)} | {
            block.options.get("label") for page in book.chapters for cell in page.text_cells
            for block in stated.blocks(cell.source) if block.name.startswith("prf:")
        }  # fmt: skip
        self.glued = _glued(chapter)
        self.claims = {claim["label"] for claim in book.claims}
        self.pages = {page.name for page in book.chapters}

    def missing(self, role: str, content: str) -> list[tuple[str, str]]:
        """(target, remedy) of each thing that a role points at in vain."""
        explicit = re.search(r"<([^<>]+)>\s*$", content)
        target = (explicit[1] if explicit else content).strip()
        checks: dict[str, tuple[Callable[[str], bool], str]] = {
            "prf:ref": (lambda t: t in self.statements, "write the :label: of a statement"),
            "ref": (lambda t: t in self.everywhere, "write a label: (label)= before a heading, or :name: of a block"),
            "numref": (lambda t: t in self.everywhere, "write the :name: of a figure or table"),
            "eq": (lambda t: t in self.everywhere, "label the formula: $$ ... $$ (label)"),
            "glue:text": (lambda t: t.split(":")[0] in self.glued, "glue() it in a cell of this chapter"),
            "glue": (lambda t: t in self.glued, "glue() it in a cell of this chapter"),
            "doc": (lambda t: self._page(t) in self.pages, "write the path of a page of _toc.yml"),
        }
        if role in checks:
            exists, remedy = checks[role]
            return [] if exists(target) else [(target, remedy)]
        if role == "verdict":
            unknown = self.book.executed and target not in self.claims
            return [(target, "write the label of a claim that some chapter checks")] if unknown else []
        if role == "cite" or role.startswith("cite:"):
            keys = [re.sub(r"\{[^}]*\}", "", key).strip() for key in content.split(",")]
            return [(key, "add it to book/references.bib") for key in keys if key not in self.book.citations]
        return []

    def missing_address(self, address: str) -> str:
        """The remedy for a link that leads nowhere; '' for one that leads somewhere or out of the book."""
        if re.match(r"[a-z][a-z+.-]*:", address):
            return ""
        path, _, anchor = unquote(address).partition("#")
        page = self.chapter.name
        if path:
            folder = posixpath.dirname(self.chapter.name)
            file = posixpath.normpath(posixpath.join(folder, path.lstrip("/") if path.startswith("/") else path))
            page = re.sub(r"\.(ipynb|md|html)$", "", file)
            if page not in self.pages:
                exists = file in self.book.files and not file.endswith((".ipynb", ".md"))
                return "" if exists else "write the path of a page of _toc.yml, from this one"
        elif not anchor:
            return "write what it links to"
        if anchor and anchor not in (self.labels[page] if path else self.everywhere) and not self._made(page, anchor):
            return "write a label of that page, or the words of a heading as Sphinx spells them: lower-case-with-hyphens"
        return ""

    def _made(self, page: str, anchor: str) -> bool:
        """Anchors that the build makes."""
        kind, _, name = anchor.partition("-")
        figures = _figures_of(self.book, page)
        known = {"claim": self.claims, "figure": figures, "code": figures}
        return kind in known and (not self.book.executed or name in known[kind])

    def _page(self, target: str) -> str:
        folder = "" if target.startswith("/") else posixpath.dirname(self.chapter.name)
        return re.sub(r"\.(ipynb|md)$", "", posixpath.normpath(posixpath.join(folder, target.lstrip("/"))))


def _labels_of(page: Chapter) -> set[str]:
    found = set()
    for cell in page.text_cells:
        text = without_code(cell.source)
        found |= {label for pattern in _LABELS for label in pattern.findall(text)}
        for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", text, flags=re.MULTILINE):
            plain = re.sub(r"\{[\w:]+\}`([^`]*)`|[$`*]", r"\1", heading)
            found.add(re.sub(r"[^\w]+", "-", plain.lower()).strip("-"))
    return found


def _glued(chapter: Chapter) -> set[str]:
    """Labels of what the chapter glues, from its outputs, and from its code where the label is a plain text."""
    found = {entry.get("name", "").removeprefix("application/papermill.record/") for _, _, entry in chapter.outputs("scrapbook")}
    for cell in chapter.code_cells:
        for node in ast.walk(cell.tree) if cell.tree else ():
            if isinstance(node, ast.Call) and called(node) == "glue" and node.args and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def without_code(text: str) -> str:
    """`text` with the blocks that show code blanked line by line, so that offsets stay."""
    lines, fence = text.split("\n"), ""
    for index, line in enumerate(lines):
        mark = line.strip()
        if fence:
            closes = len(mark) >= len(fence) and set(mark) == {fence[0]}
            lines[index] = " " * len(line)
            fence = "" if closes else fence
            continue
        opening = re.match(r"\s*(`{3,}|~{3,})\s*(\{([^}]+)\})?(.*)$", line)
        if opening and (opening[3] in stated.OPAQUE or (not opening[2] and opening[4].strip())):
            fence, lines[index] = opening[1], " " * len(line)
    return "\n".join(lines)
