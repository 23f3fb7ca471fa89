"""Which library integrates the flow? Ratios within one run: python benchmarks/flow.py (needs `pip install torchdiffeq`)

lowrank (torchode: each member on its own steps) against torchdiffeq, stacked (one step for all) and one member after
another. Error is against a run of rtol 1e-13; `alone` is how far member 3 in the stack is from member 3 alone.
"""

import time

import torch
import torchdiffeq

from lowrank import Network, Objective, gradient_flow, initialise, residuals, teacher

MEMBERS, TIME, RTOL, ATOL = 32, 100.0, 1e-9, 1e-12


def fastest(run):
    """The result and the seconds of the fastest of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
    return result, min(times)


def theirs(objective, weights, method, **options):
    span = torch.tensor([0.0, TIME], dtype=torch.float64)
    path = torchdiffeq.odeint(
        lambda t, w: tuple(-g for g in residuals(objective, w)), weights, span, rtol=RTOL, atol=ATOL, method=method, options=options
    )
    return tuple(w[-1] for w in path)


def distance(first, second):
    return max(float((a - b).abs().max()) for a, b in zip(first, second))


def member(weights, index):
    return tuple(w[index : index + 1] for w in weights)


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    task = teacher(50, 20, generator=generator)
    objective = Objective(Network((20, 16, 16, 1), "linear"), task, weight_decay=1e-2)
    weights = initialise(objective.network, members=MEMBERS, generator=generator)
    exact = gradient_flow(objective, weights, time=TIME, rtol=1e-13, atol=1e-15).weights

    def ours(start):
        return gradient_flow(objective, start, time=TIME, rtol=RTOL, atol=ATOL).weights

    end, base = fastest(lambda: ours(weights))
    print(f"torchode, stacked:                1.0 (the unit), error {distance(end, exact):.0e}, "
          f"alone {distance(member(end, 3), ours(member(weights, 3))):.0e}")  # fmt: skip
    for method in ("dopri5", "dopri8"):
        end, stacked = fastest(lambda: theirs(objective, weights, method))
        alone = theirs(objective, member(weights, 3), method)
        started = time.perf_counter()
        for index in range(4):
            theirs(objective, member(weights, index), method)
        single = (time.perf_counter() - started) * MEMBERS / 4
        print(f"torchdiffeq {method}, stacked:      {stacked / base:.1f} times the time, error {distance(end, exact):.0e}, "
              f"alone {distance(member(end, 3), alone):.0e}; one by one {single / base:.1f} times")  # fmt: skip
    huge = tuple(torch.cat([w[:1], 1e120 * w[:1]]) for w in weights)
    run = gradient_flow(objective, huge, time=TIME)
    print(f"one member overflows: torchode {run.outcome}")
    try:
        theirs(objective, huge, "dopri5", max_num_steps=2000)
        print("one member overflows: torchdiffeq ends")
    except AssertionError as error:
        print(f"one member overflows: torchdiffeq raises {error} for both")


if __name__ == "__main__":
    main()
