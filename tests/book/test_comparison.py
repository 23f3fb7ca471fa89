"""Stored outputs against fresh ones: what may differ between machines, and what may not."""

import comparison
import nbformat
import pytest


def notebook(*outputs, tags=()):
    cell = nbformat.v4.new_code_cell("pass", outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return nbformat.v4.new_notebook(cells=[cell])


def printed(*texts, name="stdout"):
    return [nbformat.v4.new_output("stream", name=name, text=text) for text in texts]


def shown(**data):
    return nbformat.v4.new_output("display_data", data={kind.replace("_", "/"): text for kind, text in data.items()})


@pytest.mark.parametrize("pieces, same", [(("one\n", "two\n"), True), (("one\n", "three\n"), False)])
def test_what_is_printed_is_compared_whole_however_it_arrives(pieces, same):
    one, other = notebook(*printed(*pieces)), notebook(*printed("one\ntwo\n"))
    assert (comparison.differences(one, other) == []) is same
    assert (comparison.differences(other, one) == []) is same


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("0.69 of it", "0.70 of it"),
        ("0.7", "0.699"),  # a zero at the end is not shown
        ("12 % of the bound", "13 % of the bound"),
        ("within 1e-07", "within 2e-07"),
        ("9.99", "10"),
        ("999", "1e+03"),
        ("slope -0.51, then 3 of 8", "slope -0.50, then 3 of 8"),
        ("'0.2 %'", "'0.3 %'"),
        ("0.5.", "0.6."),
    ],
)
def test_a_measured_number_may_differ_by_a_unit_of_its_last_digit(ours, theirs):
    assert comparison.settled(ours, theirs) == theirs and comparison.settled(theirs, ours) == ours
    assert comparison.differences(notebook(*printed(ours)), notebook(*printed(theirs))) == []


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("0.69", "0.71"),
        ("0.71", "0.8"),
        ("12 %", "14 %"),
        ("7 of 8", "8 of 8"),  # counts
        ("seed 1", "seed 2"),
        ("1e-07", "3e-07"),
        ("0.5", "-0.5"),
        ("0.5 0.6", "0.5 0.8"),
        ("0.5", "0.5 0.5"),
        ("met", "unmet"),
        ("v1.25x", "v1.26x"),  # part of a word
        ("0.5 <= 0.6", "0.5 >= 0.6"),
    ],
)
def test_anything_else_is_a_difference(ours, theirs):
    assert comparison.settled(ours, theirs) == ours and comparison.settled(theirs, ours) == theirs
    assert comparison.differences(notebook(*printed(ours)), notebook(*printed(theirs)))


def test_every_kind_of_output_is_compared():
    one = notebook(shown(text_plain="0.51", text_html="<b>0.51</b>"))
    assert comparison.differences(one, notebook(shown(text_plain="0.52", text_html="<b>0.52</b>"))) == []
    assert comparison.differences(one, notebook(shown(text_plain="0.51", text_html="<b>0.53</b>")))
    assert comparison.differences(one, notebook(shown(text_plain="0.51")))
    assert comparison.differences(one, notebook())
    assert comparison.differences(notebook(*printed("a"), shown(text_plain="b")), notebook(*printed("a")))


def test_noise_is_reported_and_a_cell_may_ask_not_to_be_compared():
    assert "writes to stderr: oh" in comparison.differences(notebook(*printed("oh\n", name="stderr")), notebook())[0]
    assert comparison.differences(notebook(*printed("a"), tags=[comparison.IGNORED]), notebook(tags=[comparison.IGNORED])) == []


def test_the_message_shows_what_differs():
    words = "word " * 100
    (line,) = comparison.differences(notebook(*printed(f"{words}seven")), notebook(*printed(f"{words}eight")))
    assert "seven" in line and "eight" in line and len(line) < 500


def test_outputs_are_not_changed_by_the_comparison():
    one, other = notebook(*printed("0.51")), notebook(*printed("0.52"))
    comparison.differences(one, other)
    assert one.cells[0].outputs[0].text == "0.51" and other.cells[0].outputs[0].text == "0.52"
