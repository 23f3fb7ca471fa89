"""What one step size adds: the first-order difference between gradient descent and gradient flow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import _require
from .networks import ACTIVATIONS, Weights
from .objective import Objective, check_members, regularised_loss, residuals


def first_order_departure(objective: Objective, weights: Weights, *, time: float, rtol: float = 1e-6) -> Weights:
    """v(t) of θ_T = θ(t) + ηv(t) + O(η²), for T = t/η steps of gradient descent and the flow from the same `weights`.

    dv/dt = −∇²L_λ(θ)(v + ½∇L_λ(θ)), v(0) = 0, along dθ/dt = −∇L_λ(θ): a tuple shaped like `weights`, (*E, m_k, m_{k−1}).
    Barrett and Dherin (2021) find the same v as the effect of a term (η/4)‖∇L_λ‖² in the loss. Both equations are
    integrated together, all members at once, by SciPy's DOP853 with relative tolerance `rtol`; gradients of L_λ are those
    of the package, its second derivatives automatic.
    relu2 has second derivatives that jump: v is still continuous, the remainder o(η).
    Raises ValueError for an activation with a kink, where ∇L_λ jumps and there is no such v, for a time or a
    tolerance out of range, and RuntimeError where SciPy gives up.
    """
    from scipy.integrate import solve_ivp

    _require.instance("objective", objective, Objective)
    if ACTIVATIONS[objective.network.activation].slopes is not None:
        raise ValueError(
            f"objective: expected an activation without a kink, got {objective.network.activation}, where gradients jump"
        )
    weights = tuple(_require.tensor(f"W_{k}", w) for k, w in enumerate(weights, start=1))
    check_members(objective, weights)
    time = _require.number("time", time, above=0.0)
    _require.number("rtol", rtol, minimum=1e-12, maximum=1e-1)

    def field(_: float, state: np.ndarray) -> np.ndarray:
        theta, v = (_layers(torch.as_tensor(half), weights) for half in np.split(state, 2))
        gradient = residuals(objective, theta)
        direction = tuple(a + g / 2 for a, g in zip(v, gradient))
        _, product = torch.autograd.functional.hvp(
            lambda *layers: regularised_loss(objective, layers).sum(), theta, direction
        )
        return -torch.cat([_flat(gradient), _flat(product)]).numpy()

    start = torch.cat([_flat(weights), torch.zeros_like(_flat(weights))]).numpy()
    found = solve_ivp(field, (0.0, time), start, method="DOP853", t_eval=[time], rtol=rtol, atol=rtol / 1000)
    if not found.success:
        raise RuntimeError(f"first-order departure: SciPy's DOP853 gave up before t = {time:g}: {found.message}")
    return _layers(torch.as_tensor(np.split(found.y[:, -1], 2)[1]), weights)


def _flat(layers: Weights) -> Tensor:
    return torch.cat([w.reshape(-1) for w in layers])


def _layers(numbers: Tensor, like: Weights) -> Weights:
    return tuple(part.reshape(w.shape) for part, w in zip(numbers.split([w.numel() for w in like]), like))
