import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import ClaimError, at_least, at_most, check, deviation, table
from lowrank.claims import RECORD, Table
from lowrank.enclosure import Enclosure

arrays = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


def test_relations_and_tolerance():
    assert check("a", [1.0, 2.0], "<=", 2.0).holds
    assert not check("a", [1.0, 2.1], "<=", 2.0).holds
    assert check("a", [1.0, 2.1], "<=", 2.0, tolerance=0.2).holds
    assert check("a", torch.tensor([3.0]), ">=", 2.0).holds and not check("a", 1.0, ">=", 2.0).holds
    assert check("a", 1.0, "==", 1.1, tolerance=0.2).holds and not check("a", 1.0, "==", 1.1, tolerance=0.05).holds


def test_deviation_is_a_distance_of_whatever_broadcasts():
    found = deviation(torch.tensor([[1.0, -2.0]]), np.array([3.0]))
    assert isinstance(found, np.ndarray) and found.tolist() == [[2.0, 5.0]]
    assert deviation(torch.tensor([1, 2]), 5).dtype == np.float64


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


def test_what_is_shown_does_not_depend_on_rounding():
    def shown(lhs, relation, rhs, tolerance=0.0):
        return Table([check("a", lhs, relation, rhs, tolerance=tolerance)]).rows()[0][2]

    assert shown(3e-7, "<=", 1e-6) == "30 % of the bound"
    assert shown(0.1, "<=", 1.0) == "10 % of the bound"
    assert shown(0.094, "<=", 1.0) == shown(0.02, "<=", 1.0) == "under 10 % of the bound"  # bands of chance: how little differs between machines
    for noise in (0.0, 3e-17, -3e-17):  # as three machines may have it
        assert shown(noise, "<=", 1e-16) == "0 <= 0, up to rounding"
        assert shown([noise, 1e-17], "<=", 0.0, 1e-16) == "0 <= 0, up to rounding"
        assert shown(noise, "<=", 0.25) == "0 <= 0.25"
        assert shown(0.5, ">=", noise) == "0.5 >= 0"
        assert shown([1.0, 1.0 + noise], "==", 1.0, [1e-15, 2e-12]) == "both sides equal within 2e-12"
    assert shown([0.0, 0.0], "<=", 0.0) == "0 <= 0" and shown(2.0, "==", 2.0) == "both sides equal"  # counts are exact


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


def ratio(lhs, relation, rhs, tolerance=0.0):
    return check("a", lhs, relation, rhs, tolerance=tolerance).record()["tightness"]


@pytest.mark.parametrize(
    "lhs, relation, rhs, worst, median",
    [
        ([1.0, 2.0, 3.0], "<=", 4.0, 3 / 4, 1 / 2),
        ([8.0, 4.0, 5.0], ">=", 2.0, 2 / 4, 2 / 5),  # a bound from below is used up as the measurement comes down to it
        ([0.0, 0.0], "<=", 1.0, 0.0, 0.0),
        ([-3.0, 1.0], "<=", 2.0, 1 / 2, 1 / 4),  # a negative number uses nothing of a positive cap
        (-8.0, "<=", -2.0, 1 / 4, 1 / 4),  # −x ≥ 2
        ([-1.0, 1.0], ">=", -2.0, 1 / 2, 1 / 4),  # −x ≤ 2
        ([1.0, 2.0], "<=", [float("inf"), 4.0], 1 / 2, 1 / 4),  # an infinite bound says nothing: 0
        (float("inf"), "<=", float("inf"), None, None),
        (float("inf"), "<=", 1.0, None, None),
        ([float("inf"), 1.0], "<=", [float("inf"), 2.0], 1 / 2, 1 / 2),
        (0.0, ">=", 1.0, None, None),
        (-1.0, ">=", 1.0, None, None),  # fails by no finite factor
        (-1.0, "<=", 0.0, None, None),  # a sign has no size to compare with
        (float("inf"), ">=", 0.0, None, None),
        ([1.0, 0.5], "<=", [0.0, 1.0], 1 / 2, 1 / 2),
        (1.0, "==", 1.0, None, None),
        ([0.5, float("nan")], "<=", 1.0, None, None),
    ],
)
def test_tightness_by_hand(lhs, relation, rhs, worst, median):
    assert ratio(lhs, relation, rhs) == {"worst": worst, "median": median}


def test_a_bound_below_its_tolerance_has_no_tightness():
    assert ratio([0.1, 0.5], "<=", [0.05, 1.0], tolerance=0.1) == {"worst": 0.5 / 1.1, "median": 0.5 / 1.1}
    assert ratio(1e-17, "<=", 1e-16, tolerance=1e-14)["worst"] is None
    assert ratio(0.3, ">=", 0.05, tolerance=0.1)["worst"] is None


@given(lhs=arrays, rhs=arrays, relation=st.sampled_from(["<=", ">="]), tolerance=st.floats(0, 10))
def test_tightness_is_at_most_one_where_the_claim_holds_and_does_not_see_signs(lhs, rhs, relation, tolerance):
    claim = check("a", lhs, relation, rhs, tolerance=tolerance)
    mirrored = check("a", -np.array(lhs), {"<=": ">=", ">=": "<="}[relation], -np.array(rhs), tolerance=tolerance)
    worst, median = claim.tightness
    assert claim.tightness == mirrored.tightness
    if claim.holds and worst is not None:
        assert 0 <= median <= worst <= 1 + 1e-15  # one rounded sum and one rounded quotient


def test_theorems_are_labels():
    assert check("a", 0.0, "<=", 1.0).record()["theorems"] == []
    assert check("a", 0.0, "<=", 1.0, theorem="thm-x").record()["theorems"] == ["thm-x"]
    assert check("a", 0.0, "<=", 1.0, theorem=("thm-x", "lem-y")).record()["theorems"] == ["thm-x", "lem-y"]
    for wrong in (3, [""], [None], {"thm-x"}, None):
        with pytest.raises(TypeError, match="^a: expected theorem as a label or a list of labels"):
            check("a", 0.0, "<=", 1.0, theorem=wrong)


def enclosure(*exists):
    unused = torch.zeros(len(exists))
    return Enclosure(np.array(exists), unused, unused, unused, unused, unused, np.array([""] * len(exists)))


def test_enclosed_counts_interval_proofs_and_never_more_than_the_members():
    def enclosed(members, *enclosures):
        return check("a", np.zeros(members), "<=", 1.0, enclosures=enclosures).record()["enclosed"]

    assert enclosed(2) is None
    assert enclosed(2, enclosure(True, True)) == {"proved": 2, "of": 2}
    assert enclosed(3, enclosure(True, False), enclosure(True)) == {"proved": 2, "of": 3}
    assert enclosed(1, enclosure(True, True)) == {"proved": 2, "of": 2}
    assert enclosed(70, enclosure(True, True)) == {"proved": 2, "of": 70}  # two of the seventy, not two of two


@pytest.mark.parametrize("wrong", [True, [True], [np.array([True])], enclosure(True), "proved"])
def test_only_an_enclosure_counts_as_proof(wrong):
    with pytest.raises(TypeError, match="^a: expected enclosures as a list of Enclosure"):
        check("a", 0.0, "<=", 1.0, enclosures=wrong)


def test_claims_need_no_interval_arithmetic_without_enclosures():
    code = "import sys; sys.modules['flint'] = None; from lowrank.claims import check; check('a', 0.0, '<=', 1.0, theorem='t')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


@given(st.floats(1e-19, 1e19))
def test_steps_that_enclose_a_number(value):
    low, high = at_least(value), at_most(value)
    assert low <= value <= high and (low == high or high / low <= 2.5 * (1 + 1e-12))
    for step in (low, high):
        assert f"{step:.0e}"[0] in "125" and float(f"{step:.0e}") == step


@pytest.mark.parametrize("value, low, high", [(0.69, 0.5, 1), (0.5, 0.5, 0.5), (1.3, 1, 2), (0.011, 0.01, 0.02), (999, 500, 1000), (1e20, 1e20, 1e20)])
def test_steps_as_one_would_say_them(value, low, high):
    assert (at_least(value), at_most(value)) == (low, high)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 2e20])
@pytest.mark.parametrize("step", [at_least, at_most])
def test_what_has_no_step_is_refused(step, value):
    with pytest.raises(ValueError, match="value: expected a number between 1e-20 and 1e[+]20, got"):
        step(value)
