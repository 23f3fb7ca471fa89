"""The contract of a chapter, as far as text can tell."""

import ast
import re
import shlex

import pytest
from conftest import BOOK, CHAPTERS, OTHER_PARAMETERS, pages, read
from papermill.inspection import _infer_parameters  # what `papermill --help-notebook` prints
from papermill.iorw import load_notebook_node

from lowrank.parameters import declared, parse

SECTIONS = ("Parameters", "Statement", "Smallest example", "Proof", "Premises", "Check", "Turn the knobs",
            "Where it is loose or fails", "Exercises", "Provenance")  # fmt: skip


def code_cells(chapter):
    return [cell for cell in read(chapter).cells if cell.cell_type == "code"]


def text(chapter):
    return "\n\n".join(cell.source for cell in read(chapter).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_parameters_are_typed_explained_and_required(chapter):
    first, second = code_cells(chapter)[:2]
    assert first.metadata.tags == ["parameters"]
    for line in first.source.splitlines():
        assert re.fullmatch(r"\w+: (float|int|str) = \S+  # .+", line), line
    names = [node.target.id for node in ast.parse(first.source).body]
    required = declared(read(chapter))
    assert list(required) == names
    assert all(f'require("{name}", {name}, ' in second.source for name in names)
    for node in ast.parse(first.source).body:
        declaration = required[node.target.id]
        assert declaration.kind == node.annotation.id
        assert declaration.parse(ast.unparse(node.value)) == ast.literal_eval(node.value)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_papermill_can_explain_the_parameters(chapter):
    found = _infer_parameters(load_notebook_node(f"book/{chapter}.ipynb"))
    assert len(found) == len(declared(read(chapter))) and all(parameter.help for parameter in found)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_sections_stand_in_order(chapter):
    headings = re.findall(r"^## (.+)$", text(chapter), flags=re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_opens_with_claim_status_and_figure(chapter):
    opening = read(chapter).cells[0].source
    assert opening.startswith("# ")
    positions = [opening.index(part) for part in ("**Claim.**", "{status-strip}", "{chapter-figure}")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_training_loop_and_no_other_chapter(chapter):
    for cell in code_cells(chapter):
        for forbidden in (".backward(", "torch.optim", "manual_seed(0)", "%run", "import_module"):
            assert forbidden not in cell.source, forbidden
        assert not re.search(r"^\s*(from|import)\s+(theorems|merging)\b", cell.source, flags=re.MULTILINE)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_theorem_is_proved_and_there_is_one_table_of_claims(chapter):
    words = text(chapter)
    theorems = re.findall(r"\{prf:(?:theorem|lemma|proposition)\}.*\n:label: (\S+)", words)
    proofs = "".join(re.findall(r"\{prf:proof\}\n(.*?)\n````", words, flags=re.DOTALL))
    assert theorems and all(f"{{prf:ref}}`{label}`" in proofs for label in theorems)
    tables = [cell.source for cell in code_cells(chapter) if re.search(r"^table\(", cell.source, flags=re.MULTILINE)]
    assert len(tables) == 1


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_outputs_are_text_without_noise(chapter):
    for count, cell in enumerate(code_cells(chapter), start=1):
        tags = cell.metadata.get("tags", [])
        assert cell.execution_count == count
        if "figures.show(" in cell.source:
            assert "nbval-ignore-output" in tags and cell.outputs == []
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            assert not any(mime.startswith("image/") for mime in output.get("data", {}))
            assert set(output.get("metadata", {})) <= {"scrapbook"}


@pytest.mark.parametrize("page", ["../README", *pages()])
def test_commands_that_a_page_prints_name_parameters_and_allowed_values(page):
    words = text(page) if page in CHAPTERS else (BOOK / f"{page}.md").read_text()
    commands = re.findall(r"^(?:\S*/)?python -m lowrank run (.+)$", words.replace("\\\n", " "), flags=re.MULTILINE)
    assert commands or page not in CHAPTERS
    for command in commands:
        chapter, *given = shlex.split(command, comments=True)
        assert given[::3] == ["-p"] * (len(given) // 3) and len(given) % 3 == 0, command
        parse(read(chapter), dict(zip(given[1::3], given[2::3])))  # refuses what `python -m lowrank run` refuses


def test_every_chapter_has_another_parameter_set():
    assert set(OTHER_PARAMETERS) == set(CHAPTERS)
