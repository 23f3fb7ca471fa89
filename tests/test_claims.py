import json

import numpy as np
import pytest
import torch

from lowrank import ClaimError, check, table
from lowrank.claims import RECORD, Table


def test_relations_and_tolerance():
    assert check("a", [1.0, 2.0], "<=", 2.0).holds
    assert not check("a", [1.0, 2.1], "<=", 2.0).holds
    assert check("a", [1.0, 2.1], "<=", 2.0, tolerance=0.2).holds
    assert check("a", torch.tensor([3.0]), ">=", 2.0).holds and not check("a", 1.0, ">=", 2.0).holds
    assert check("a", 1.0, "==", 1.1, tolerance=0.2).holds and not check("a", 1.0, "==", 1.1, tolerance=0.05).holds


def test_one_member_out_of_many_is_enough_to_fail():
    lhs = np.zeros((50, 7))
    assert check("a", lhs, "<=", 0.0).holds
    lhs[31, 4] = 1e-9
    claim = check("a", lhs, "<=", 0.0)
    assert not claim.holds and claim.members == 50 and claim.worst[0] == 1e-9


@pytest.mark.parametrize("relation", ["<=", ">=", "=="])
@pytest.mark.parametrize("bad", [float("nan")])
def test_nan_never_holds(relation, bad):
    assert not check("a", [0.0, bad], relation, 0.0, tolerance=1.0).holds
    assert np.isnan(check("a", [0.0, bad], relation, 0.0).worst[0])
    assert not check("a", 0.0, relation, bad).holds


def test_infinities_compare_as_numbers_do():
    inf = float("inf")
    assert check("a", inf, "<=", inf).holds and not check("a", inf, "<=", 1.0).holds
    assert check("a", [1.0, 2.0], "<=", [inf, 2.1]).worst[:2] == (2.0, 2.1)


def test_a_premise_that_rests_on_an_unmet_one_is_unmet():
    unmet = check("p", 1.0, "<=", 0.0)
    assert check("a", 0.0, "<=", 1.0, premises=[check("q", 0.0, "<=", 1.0, premises=[unmet])]).verdict == "premises unmet"


@pytest.mark.parametrize("lhs, options", [("5", {}), (1 + 2j, {}), (1.0, {"premises": check("p", 0.0, "<=", 1.0)}), (1.0, {"control": True})])
def test_what_is_no_number_or_no_claim_is_refused(lhs, options):
    with pytest.raises(TypeError, match="^a: expected"):
        check("a", lhs, "<=", 1.0, **options)


@pytest.mark.parametrize("lhs, rhs, tolerance", [([[1.0, 1.0], [3.0, 3.0]], [2.0, 4.0], 0.0), (1.0, 2.0, [0.0, 0.0])])
def test_sides_with_different_axes_are_refused(lhs, rhs, tolerance):
    with pytest.raises(ValueError, match="a: expected sides with the same axes"):
        check("a", lhs, "<=", rhs, tolerance=tolerance)


def test_verdicts():
    unmet = check("premise", 1.0, "<=", 0.0)
    assert check("a", 0.0, "==", 0.0).verdict == "identity checked"
    assert check("a", [0.0, 0.0], "<=", 0.0).verdict == "numerically consistent (2 members)"
    assert check("a", 0.0, "<=", 0.0).verdict == "numerically consistent (1 member)"
    assert check("a", 1.0, "<=", 0.0).verdict == "contradicted"
    assert check("a", 1.0, "<=", 0.0, premises=[unmet]).verdict == "premises unmet"
    assert all("proved" not in check("a", 0.0, r, 0.0).verdict for r in ("<=", "==", ">="))


def test_a_failed_claim_stops_with_label_both_sides_and_tolerance(capsys):
    with pytest.raises(ClaimError, match=r"claim fails: too-large: 3 <= 2 \(tolerance 0.5\)"):
        table(check("fine", 0.0, "<=", 1.0), check("too-large", [1.0, 3.0], "<=", 2.0, tolerance=0.5))
    assert "contradicted" in capsys.readouterr().out  # the table is shown before it stops


def test_a_control_that_holds_stops(capsys):
    with pytest.raises(ClaimError, match="control of a fails for 0 of 1 members only: broken premise"):
        table(check("a", 0.0, "<=", 1.0, control=check("broken premise", 0.5, "<=", 1.0)))


@pytest.mark.parametrize("lhs, failing", [([2.0, 2.0], 2), ([2.0, 0.5], 1), ([2.0, float("nan")], 1)])
def test_a_control_must_fail_for_every_member_and_by_its_numbers(lhs, failing, capsys):
    claim = check("a", 0.0, "<=", 1.0, control=check("c", lhs, "<=", 1.0))
    assert claim.control.failing_members == failing and claim.noticed == (failing == 2)


def test_unmet_premises_are_said_and_do_not_stop(capsys):
    table(check("a", 5.0, "<=", 1.0, premises=[check("p", 1.0, "<=", 0.0)]))
    out = capsys.readouterr().out
    assert "premises unmet" in out and "p: unmet" in out


def test_a_label_twice_is_refused():
    with pytest.raises(ValueError, match="label: expected each label once"):
        table(check("a", 0.0, "<=", 1.0), check("a", 0.0, "<=", 1.0))


def test_records_are_json_at_full_precision():
    control = check("λ = 0", [2.0, 2.0], "<=", 1.0)
    claim = check("a", [1 / 3, 0.1], "<=", 1.0, statement="x ≤ 1", premises=[check("p", 0.0, "==", 0.0)], control=control)
    _, metadata = Table([claim])._repr_mimebundle_()
    (record,) = json.loads(json.dumps(metadata))[RECORD]
    assert record["label"] == "a" and record["lhs"] == 1 / 3 and record["slack"] == [1 - 1 / 3, 0.9]
    assert record["members"] == 2 and record["control"]["noticed"] is True and record["premises"][0]["verdict"] == "identity checked"
    nan = check("n", float("nan"), "<=", 1.0).record()
    assert nan["lhs"] is None and nan["verdict"] == "contradicted" and json.dumps(nan, allow_nan=False)


def test_html_escapes_and_carries_an_anchor():
    data, _ = Table([check("a-b", 0.0, "<=", 1.0, statement="x < y")])._repr_mimebundle_()
    assert 'id="claim-a-b"' in data["text/html"] and "x &lt; y" in data["text/html"]


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((1.0, "<", 2.0), {}, "relation: expected one of <=, >=, =="),
        (([1.0, 2.0], "<=", [1.0, 2.0, 3.0]), {}, r"a: expected lhs, rhs and tolerance that broadcast, got shapes \(2,\), \(3,\)"),
        (([], "<=", 1.0), {}, "a: expected at least one comparison, got none"),
        ((1.0, "<=", 1.0), {"tolerance": -1.0}, "a: expected a finite tolerance >= 0, got -1"),
        ((1.0, "<=", 1.0), {"tolerance": float("nan")}, "a: expected a finite tolerance >= 0, got nan"),
    ],
)
def test_bad_checks_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        check("a", *arguments, **options)
