"""Ordinary differential equations, one error control per member: the only place that knows the library we use for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """`values` (B, t, F) at the times asked for, nan where a member did not get there; `accepted` steps, (B,);
    `given_up`, an array (B,) of words: "" | "step limit" | "not finite"."""

    values: Tensor
    accepted: Tensor
    given_up: np.ndarray


def integrate(
    field: Callable[[Tensor], Callable[[Tensor], Tensor]],
    start: Tensor,
    times: Tensor,
    *,
    rtol: float,
    atol: float,
    step_limit: int,
) -> Trajectory:
    """dy/dt = f(y) from `start` (B, F) at time 0, for each of B members on its own steps, read off at `times` (t,).

    `field(members)` gives f for those members, an index tensor: f takes and returns (len(members), F). Tsitouras' pair of
    order 5(4) with PI control: the root mean square of error/(atol + rtol·|y|) over a member's F numbers stays below 1
    in each accepted step. Between steps values come from the pair's interpolant of order 4. Times increase, the last
    is the end. A member that is not through after `step_limit` steps, or whose step is not finite, is given up, alone.
    """
    members, count = start.shape[0], len(times)
    values = start.new_full((members, count, start.shape[1]), torch.nan)
    accepted = torch.zeros(members, dtype=torch.int64)
    given_up = np.full(members, "", dtype="<U10")
    waiting = torch.arange(members)
    while len(waiting):
        solution = _solve(field(waiting), start[waiting], times, rtol, atol, step_limit)
        reached = solution.stats["n_initialized"]
        blown, through = solution.status == _not_finite(), reached == count
        # The library stops all members as soon as one fails. Those that another's infinity cuts short start again without
        # it, and take the same steps, since members do not see each other; the limit cuts short all that still run.
        settled = blown | through if bool(blown.any()) else torch.ones_like(blown)
        ended = waiting[settled]
        known = torch.arange(count) < reached[:, None]
        values[ended] = torch.where(known[..., None], solution.ys, torch.nan)[settled]
        accepted[ended] = solution.stats["n_accepted"][settled]
        given_up[waiting[blown].numpy()] = "not finite"
        given_up[waiting[settled & ~blown & ~through].numpy()] = "step limit"
        waiting = waiting[~settled]
    return Trajectory(values, accepted, given_up)


def _solve(f: Callable[[Tensor], Tensor], start: Tensor, times: Tensor, rtol: float, atol: float, step_limit: int):
    import torchode  # a second to import, and only needed here

    term = torchode.ODETerm(lambda time, y: f(y))
    controller = torchode.PIDController(atol, rtol, pcoeff=0.2, icoeff=0.5, dcoeff=0.0, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller, max_steps=step_limit)
    clocks = times.expand(len(start), -1)
    problem = torchode.InitialValueProblem(start, torch.zeros_like(clocks[:, 0]), clocks[:, -1], clocks)
    with torch.no_grad():
        return solver.solve(problem)


def _not_finite() -> int:
    from torchode.status_codes import INFINITE_NORM

    return INFINITE_NORM
