"""The parser of what the book states, on texts small enough to read."""

import conftest
import pytest
import statements
from statements import Proof, references

TWO_IN_A_CELL = r"""## Statement

Words before.

````{prf:theorem} Norms of $\sigma$, {and} all
:label: thm-one
:nonumber:

Let $\lambda>0$, as in {prf:ref}`def-data`.

```{math}
:label: eq-one
a = b
```

* and {prf:ref}`text of its own <lem-two>`, and {prf:ref}`def-data` again.
````

:::{prf:lemma}
:label: lem-two
A colon fence without a title.
:::
"""

PROOFS = r"""## Proof

````{prf:proof}
({prf:ref}`lem-two`) By {prf:ref}`prop-three`; not by itself, {prf:ref}`lem-two`.

```python
"{prf:ref}`thm-not-this`"
```
````

```{prf:proof}
Of nothing in particular.
```
"""


def parsed(*cells: str) -> dict[str, statements.Statement]:
    return {statement.label: statement for statement in statements.statements("part/page", list(cells))}


def test_two_statements_of_one_cell_with_fences_of_their_own():
    one, two = parsed(TWO_IN_A_CELL, PROOFS).values()
    assert (one.kind, one.label, one.title, one.chapter, one.cell) == (
        "theorem", "thm-one", r"Norms of $\sigma$, {and} all", "part/page", 1,
    )  # fmt: skip
    assert one.body.startswith("Let $")
    assert one.body.endswith("again.") and "a = b" in one.body and ":nonumber:" not in one.body
    assert one.references == ("def-data", "lem-two") and one.proof == ""
    assert (two.kind, two.label, two.title, two.body) == ("lemma", "lem-two", "", "A colon fence without a title.")


@pytest.mark.parametrize("cells", [(TWO_IN_A_CELL, PROOFS), (PROOFS, TWO_IN_A_CELL)], ids=["after", "before"])
def test_a_proof_finds_its_statement_before_or_after_it(cells):
    two = parsed(*cells)["lem-two"]
    assert two.proof.startswith("({prf:ref}`lem-two`) By") and two.references == ("prop-three",)


def test_proofs_also_those_of_nothing():
    found = statements.proofs([TWO_IN_A_CELL, PROOFS])
    assert [(proof.label, proof.cell) for proof in found] == [("lem-two", 2), ("", 2)]
    assert found[1] == Proof("", "Of nothing in particular.", 2)


def test_two_proofs_of_one_statement_are_both_kept():
    one = "```{prf:proof}\n({prf:ref}`lem-two`) First {prf:ref}`a`.\n```"
    assert parsed(TWO_IN_A_CELL, one, one.replace("First {prf:ref}`a`", "Second {prf:ref}`b`"))["lem-two"].references == ("a", "b")


def test_a_longer_fence_holds_a_shorter_one_and_ends_at_its_own_length():
    text = "`````{admonition} Outer\n````{prf:definition} D\n:label: def-d\n```{note}\n{prf:ref}`x`\n```\nlast\n````\n`````\n{prf:ref}`y`"
    (definition,) = parsed(text).values()
    assert definition.body.endswith("last") and definition.references == ("x",)
    assert [block.name for block in statements.blocks(text)] == ["admonition", "prf:definition", "note"]


def test_shown_code_states_nothing():
    shown = "````\n```{prf:theorem} Not one\n:label: thm-not\n```\n````\n\n````{code-block} md\n```{prf:theorem} Nor this\n```\n````"
    assert parsed(shown) == {}
    assert references("before {prf:ref}`a`\n```\n{prf:ref}`b`\n```\nafter {prf:ref}`c`, {prf:ref}`a`") == ["a", "c", "a"]


def test_no_label_and_other_directives():
    text = "```{prf:corollary} Unnamed\nBy {prf:ref}`a`.\n```\n\n```{prf:remark}\nNo statement.\n```\n\n```{note}\nNor this.\n```\n\n```{lemma}\nOf no theorem package.\n```"
    (corollary,) = statements.statements("p", [text])
    assert (corollary.kind, corollary.label, corollary.proof, corollary.references) == ("corollary", "", "", ("a",))
    # an unlabelled statement does not take the proof that names nothing
    assert statements.statements("p", [text, "```{prf:proof}\nWords.\n```"])[0].proof == ""


def test_inline_code_at_the_start_of_a_line_opens_nothing():
    assert [s.label for s in statements.statements("p", ["```inline``` code\n\n```{prf:lemma} L\n:label: lem-l\nBody.\n```"])] == ["lem-l"]


def test_the_real_chapters_prove_what_they_state():
    for page in conftest.CHAPTERS:
        cells = statements.text_cells(conftest.BOOK / f"{page}.ipynb")
        stated = statements.statements(page, cells)
        raw = "\n".join(cells)
        # counted by another rule: a line of backticks and the directive's name
        assert len(stated) == sum(raw.count(f"`{{prf:{kind}}}") for kind in statements.KINDS), page
        assert all(statement.label and f":label: {statement.label}\n" in raw for statement in stated), page
        assert raw.count("`{prf:proof}") == len(statements.proofs(cells)), page
