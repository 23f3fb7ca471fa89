"""Closed forms against SciPy's integrator, against their limits and against a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from lowrank import exact


@given(st.floats(0.0, 3.0), st.floats(0.01, 4.0), st.floats(1e-4, 5.0))
def test_balanced_mode_solves_its_equation(s, t, s0):
    # dσ/dt = 2σ(s − σ)
    found = solve_ivp(lambda _, y: 2 * y * (s - y), (0, t), [s0], rtol=1e-11, atol=1e-14, method="DOP853")
    assert exact.balanced_mode(t, s, s0) == pytest.approx(found.y[0, -1], rel=1e-8)


def test_balanced_mode_neither_overflows_nor_loses_its_limits():
    np.testing.assert_allclose(exact.balanced_mode([0.0, 1e6], 2.0, 1e-9), [1e-9, 2.0], rtol=1e-15)
    assert float(exact.balanced_mode(3.0, 0.0, 0.5)) == pytest.approx(0.5 / (1 + 3.0), rel=1e-15)
    assert float(exact.balanced_mode(3.0, 1e-12, 0.5)) == pytest.approx(0.125, rel=1e-10)


@pytest.mark.parametrize("name, values", [("t", (-1.0, 1, 1)), ("s", (1, -1.0, 1)), ("s0", (1, 1, 0.0)), ("s0", (1, 1, np.nan))])
def test_balanced_mode_names_what_is_out_of_range(name, values):
    with pytest.raises(ValueError, match=f"{name}: expected finite numbers"):
        exact.balanced_mode(*values)


@given(st.floats(0.0, 10.0), st.floats(-5.0, 5.0), st.floats(0.0, 1.0))
def test_norm_gap_decay_solves_its_equation(t, gap0, decay):
    h = 1e-5
    slope = (exact.norm_gap_decay(t + h, gap0, decay) - exact.norm_gap_decay(t - h, gap0, decay)) / (2 * h)
    assert slope == pytest.approx(-2 * decay * exact.norm_gap_decay(t, gap0, decay), abs=1e-8)
    assert exact.norm_gap_decay(0.0, gap0, decay) == gap0


def test_departure_is_the_first_order_part_of_the_discrete_law():
    # D ← (1−ηλ)²D + η²c(t): with c(t) = cos t the gap leaves D(0)e^{−2λt} by ηκ + O(η²)
    decay, gap0, end = 0.3, 2.0, 4.0
    integral = quad(lambda u: np.exp(-2 * decay * (end - u)) * np.cos(u), 0, end)[0]
    kappa = exact.norm_gap_departure(end, gap0, decay, integral)
    errors = []
    for steps in (1000, 2000):
        eta, gap = end / steps, gap0
        for step in range(steps):
            gap = (1 - eta * decay) ** 2 * gap + eta**2 * np.cos(eta * step)
        errors.append((gap - exact.norm_gap_decay(end, gap0, decay)) / eta - kappa)
    assert abs(errors[0]) < 0.01 and errors[0] / errors[1] == pytest.approx(2.0, abs=0.02)
