"""How fast is one step of gradient descent for one network? Ratios within one run: python benchmarks/descent.py

Stacked closed forms (lowrank) against stacked autograd and against one nn.Sequential with torch.optim after another.
"""

import time

import torch

from lowrank import Network, Objective, gradient_descent, initialise, teacher

MEMBERS, STEPS = 32, 300


def seconds(run) -> float:
    """The fastest of three, after a warm-up."""
    run()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def stacked_autograd(task, weights, step_size, decay):
    current = [w.clone().requires_grad_() for w in weights]
    for _ in range(STEPS):
        hidden = task.x.mT
        for w in current[:-1]:
            hidden = (w @ hidden).clamp_min(0.0)
        f = (current[-1] @ hidden)[..., 0, :]
        loss = torch.nn.functional.softplus(-task.y * f).mean(-1).sum()
        for w, g in zip(current, torch.autograd.grad(loss, current)):
            w.data.mul_(1 - step_size * decay).sub_(step_size * g)


def one_by_one(task, weights, step_size, decay, members):
    for member in range(members):
        layers = []
        for w in weights:
            layer = torch.nn.Linear(w.shape[-1], w.shape[-2], bias=False, dtype=torch.float64)
            layer.weight.data = w[member].clone()
            layers += [layer, torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        optimiser = torch.optim.SGD(model.parameters(), lr=step_size, weight_decay=decay)
        for _ in range(STEPS):
            optimiser.zero_grad()
            torch.nn.functional.softplus(-task.y * model(task.x)[:, 0]).mean().backward()
            optimiser.step()


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    task = teacher(50, 20, generator=generator)
    for widths in ((20, 64, 1), (20, 64, 64, 1)):
        network = Network(widths)
        weights = initialise(network, members=MEMBERS, generator=generator)
        objective = Objective(network, task, weight_decay=1e-2)
        ours = seconds(lambda: gradient_descent(objective, weights, step_size=0.2, steps=STEPS)) / MEMBERS
        stacked = seconds(lambda: stacked_autograd(task, weights, 0.2, 1e-2)) / MEMBERS
        single = seconds(lambda: one_by_one(task, weights, 0.2, 1e-2, members=4)) / 4
        print(
            f"depth {network.depth}: {ours / STEPS * 1e6:.0f} µs a network-step; stacked autograd takes "
            f"{stacked / ours:.1f} times as long, one nn.Sequential after another {single / ours:.1f} times"
        )


if __name__ == "__main__":
    main()
