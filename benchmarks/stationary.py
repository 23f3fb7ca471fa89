"""How near to stationary points polishing comes, and how often: .venv/bin/python benchmarks/stationary.py

ReLU networks of depth 2 and 3 at the size that the project set itself: 50 inputs in 20 dimensions, width 64, λ from 1e-3
to 3e-2. Prints the worst certificate over the networks that survive, how many do, and how many are proved to lie next to
an exact stationary point.
"""

import time

import numpy as np
import torch

from lowrank import (
    Network,
    Objective,
    angles,
    clarke_distance,
    gradient_descent,
    initialise,
    layer_norms,
    nearest_gradient,
    polish,
    teacher,
)
from lowrank.enclosure import enclose

MEMBERS, STEPS, STEP_SIZE = 2, 20_000, 0.5

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
task = teacher(50, 20, generator=generator)
decays = torch.tensor([1e-3, 3e-3, 1e-2, 3e-2], dtype=torch.float64).repeat_interleave(MEMBERS)
for depth in (2, 3):
    network = Network((20, *[64] * (depth - 1), 1))
    objective = Objective(network, task, weight_decay=decays)
    clock = [time.perf_counter()]
    start = initialise(network, members=(len(decays),), generator=generator)
    run = gradient_descent(objective, start, step_size=STEP_SIZE, steps=STEPS)
    clock.append(time.perf_counter())
    points = polish(objective, run.weights)
    clock.append(time.perf_counter())
    proofs = enclose(objective, points)
    clock.append(time.perf_counter())
    alive = points.status == "converged"
    gradients = nearest_gradient(objective, points.weights, kink_tolerance=1e-12)
    squares = layer_norms(points.weights) ** 2
    spread = ((squares.amax(-1) - squares.amin(-1)) / squares.mean(-1))[alive]
    print(f"depth {depth}: {points.outcome} of {alive.size}; {'; '.join(points.reason[~alive])}")
    print(f"  Clarke distance <= {clarke_distance(objective, points.weights, kink_tolerance=1e-12)[alive].max():.1e}")
    print(f"  angle <= {angles(points.weights, tuple(-g for g in gradients))[alive].max():.1e}, spread of norms <= {spread.max():.1e}")
    print(f"  fields {dict(zip(*np.unique(points.field[alive], return_counts=True)))}; kinks {[len(k) for k in points.kinks]}")
    print(f"  relative distance from descent {points.distance[alive].min():.2f} to {points.distance[alive].max():.2f}")
    print(f"  proved {proofs.exists.sum()}, radius <= {np.nanmax(proofs.radius):.1e}")
    print("  seconds: descent {:.0f}, polish {:.0f}, proofs {:.1f}".format(*np.diff(clock)))
