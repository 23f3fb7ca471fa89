"""What is minimised: L_λ = L + (λ/2) Σ_k ‖W_k‖_F², the only place that knows the convention of λ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _require
from .networks import ACTIVATIONS, Network, Weights, check_weights, forward, hidden_states
from .tasks import Task


@dataclass(frozen=True)
class Loss:
    """ℓ(f, y) per sample, (*E, n), and ∂ℓ/∂f, (*E, n, c); `kinds` of task that it takes."""

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    kinds: tuple[str, ...]


def _logistic(f: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-y * f[..., 0], threshold=40.0)


def _logistic_slope(f: Tensor, y: Tensor) -> Tensor:
    return (-y * torch.sigmoid(-y * f[..., 0]))[..., None]


def _cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    return torch.logsumexp(f, -1) - f.gather(-1, y.expand(f.shape[:-1])[..., None])[..., 0]


def _cross_entropy_slope(f: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(f, -1) - torch.nn.functional.one_hot(y, f.shape[-1])


def _squared(f: Tensor, y: Tensor) -> Tensor:
    return (f - y).square().sum(-1) / 2


LOSSES = {
    "logistic": Loss(_logistic, _logistic_slope, ("binary",)),
    "cross_entropy": Loss(_cross_entropy, _cross_entropy_slope, ("classes",)),
    "squared": Loss(_squared, lambda f, y: f - y, ("targets", "binary")),
}


@dataclass(frozen=True, eq=False)
class Objective:
    """L_λ(θ) = (1/n) Σ_i ℓ(f_θ(x_i), y_i) + (λ/2) Σ_k ‖W_k‖_F².

    λ is `weight_decay`, torch's convention: a gradient step is W ← (1−ηλ) W − η∇L. It is a number, or a tensor that
    broadcasts with the members' axes (*E,), one λ a member. `loss` is logistic (labels ±1, one output), cross_entropy
    (classes) or squared, ½‖f−y‖² (targets, or labels ±1 with one output). Raises ValueError for a negative λ, a loss
    that does not fit the task, and a network that does not fit the data.
    """

    network: Network
    task: Task
    weight_decay: float | Tensor
    loss: str = "logistic"

    def __init__(self, network: Network, task: Task, *, weight_decay: float | Tensor, loss: str = "logistic"):
        _require.instance("network", network, Network)
        _require.instance("task", task, Task)
        _require.choice("loss", loss, LOSSES)
        decay = _require.rate("weight_decay", weight_decay, positive=False)
        if task.x.shape[-1] != network.widths[0]:
            raise ValueError(
                f"task: expected inputs of dimension {network.widths[0]} for {network}, got {task.x.shape[-1]}"
            )
        if task.kind not in LOSSES[loss].kinds:
            raise ValueError(f"loss: {loss} expects a task of {' or '.join(LOSSES[loss].kinds)}, got {task.kind}")
        outputs = {"binary": 1, "targets": task.y.shape[-1]}.get(task.kind)
        if outputs is not None and network.widths[-1] != outputs:
            raise ValueError(f"network: expected {outputs} output(s) for {task}, got {network.widths[-1]}")
        if task.kind == "classes" and not 0 <= int(task.y.min()) <= int(task.y.max()) < network.widths[-1]:
            raise ValueError(
                f"y: expected classes from 0 to {network.widths[-1] - 1}, got {int(task.y.min())} to {int(task.y.max())}"
            )
        for name, value in (("network", network), ("task", task), ("weight_decay", decay), ("loss", loss)):
            object.__setattr__(self, name, value)

    @property
    def targets(self) -> Tensor:
        """What the loss compares outputs with: y, with a last axis of one output for squared loss on labels."""
        return self.task.y[..., None] if self.loss == "squared" and self.task.kind == "binary" else self.task.y


def check_members(objective: Objective, weights: Weights, **rates: Tensor) -> None:
    """Raises where weights do not fit the network, or where λ, the data or one of `rates` has members' axes that do not
    broadcast to those of the weights."""
    check_weights(objective.network, weights)
    members = weights[0].shape[:-2]
    rates = {"weight_decay": objective.weight_decay, **rates}
    for name, shape in (("x", objective.task.x.shape[:-2]), *((name, rate.shape) for name, rate in rates.items())):
        try:
            fits = torch.broadcast_shapes(shape, members) == members
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name}: expected members' axes that broadcast to {tuple(members)}, those of the weights, got {tuple(shape)}"
            )


def split_objective(objective: Objective, members: tuple[int, ...]) -> list[Objective]:
    """The objective of each member alone, in C order."""
    count = math.prod(members)
    decays = objective.weight_decay.expand(members).reshape(-1)
    task = objective.task

    def rows(data: Tensor, axes: int) -> Tensor:
        return data.expand(*members, *data.shape[data.ndim - axes :]).reshape(count, *data.shape[data.ndim - axes :])

    axes = 2 if task.kind == "targets" else 1
    tasks = [task] * count if task.x.ndim == 2 else [Task(x, y) for x, y in zip(rows(task.x, 2), rows(task.y, axes))]
    return [
        Objective(objective.network, own, weight_decay=decay, loss=objective.loss) for own, decay in zip(tasks, decays)
    ]


def sample_losses(objective: Objective, weights: Weights) -> Tensor:
    """ℓ(f(x_i), y_i), (*E, n)."""
    check_members(objective, weights)
    f = forward(objective.network, weights, objective.task.x)
    return LOSSES[objective.loss].value(f, objective.targets)


def data_loss(objective: Objective, weights: Weights) -> Tensor:
    """L = (1/n) Σ_i ℓ(f(x_i), y_i), (*E,)."""
    return sample_losses(objective, weights).mean(-1)


def regularised_loss(objective: Objective, weights: Weights) -> Tensor:
    """L_λ = L + (λ/2) Σ_k ‖W_k‖_F², (*E,)."""
    loss = data_loss(objective, weights)
    return loss + objective.weight_decay / 2 * sum(w.square().sum((-2, -1)) for w in weights)


def loss_gradients(objective: Objective, weights: Weights) -> Weights:
    """∇_{W_k} L for every layer, without the penalty: a tuple shaped like `weights`."""
    check_members(objective, weights)
    return backpropagate(objective, weights, objective.task.x, objective.targets)


def backpropagate(objective: Objective, weights: Weights, x: Tensor, targets: Tensor) -> Weights:
    """∇_{W_k} of the mean loss over (x, targets), by the chain rule: P_K = ∂L/∂f, P_{k−1} = (W_kᵀP_k) ⊙ σ′(z_{k−1})."""
    backward = ACTIVATIONS[objective.network.activation].backward
    preactivations, activations = hidden_states(objective.network, weights, x)
    signal = LOSSES[objective.loss].slope(preactivations[-1].mT, targets).mT / x.shape[-2]
    gradients = [signal @ activations[-1].mT]
    for k in range(objective.network.depth - 1, 0, -1):
        signal = backward(weights[k].mT @ signal, preactivations[k - 1])
        gradients.append(signal @ activations[k - 1].mT)
    return tuple(reversed(gradients))


def residuals(objective: Objective, weights: Weights) -> Weights:
    """g_k = ∇_{W_k}L + λ W_k for every layer: zero exactly at a stationary point."""
    decay = objective.weight_decay[..., None, None]
    return tuple(g + decay * w for g, w in zip(loss_gradients(objective, weights), weights))


def margins(objective: Objective, weights: Weights) -> Tensor:
    """m_i = y_i f(x_i), (*E, n), for labels ±1. Raises ValueError for any other task."""
    if objective.task.kind != "binary":
        raise ValueError(f"task: margins need labels -1 and +1, got a task of {objective.task.kind}")
    return objective.task.y * forward(objective.network, weights, objective.task.x)[..., 0]


def weighted_margin(objective: Objective, weights: Weights) -> Tensor:
    """S = −(1/n) Σ_i ⟨∂ℓ_i/∂f, f(x_i)⟩, (*E,); for the logistic loss S = (1/n) Σ_i |ℓ′(m_i)| m_i."""
    f = forward(objective.network, weights, objective.task.x)
    return -(LOSSES[objective.loss].slope(f, objective.targets) * f).sum(-1).mean(-1)


def mean_slope(objective: Objective, weights: Weights) -> Tensor:
    """ℓ̄′ = (1/n) Σ_i |ℓ′(m_i)|, (*E,), with |ℓ′(m)| = 1/(1+e^m): logistic loss only, ValueError for any other."""
    return torch.sigmoid(-_logistic_margins(objective, weights)).mean(-1)


def effective_radius(objective: Objective, weights: Weights) -> Tensor:
    """Σ_i |ℓ′(m_i)| ‖x_i‖ / Σ_i |ℓ′(m_i)|, (*E,): the mean norm of the inputs as the loss weighs them, at most R.

    Logistic loss only, ValueError for any other. The weights are normalised before they underflow.
    """
    share = torch.softmax(torch.nn.functional.logsigmoid(-_logistic_margins(objective, weights)), -1)
    return (share * torch.linalg.vector_norm(objective.task.x, dim=-1)).sum(-1)


def _logistic_margins(objective: Objective, weights: Weights) -> Tensor:
    if objective.loss != "logistic":
        raise ValueError(f"loss: expected logistic, whose slope 1/(1+e^m) this is about, got {objective.loss}")
    return margins(objective, weights)


def accuracy(network: Network, weights: Weights, task: Task) -> Tensor:
    """Share of inputs whose predicted label, sign f(x) or argmax f(x), is right, (*E,); an output of 0 is wrong."""
    outputs = {"binary": 1, "classes": max(int(task.y.max()) + 1, 2)}.get(task.kind)
    if outputs is None:
        raise ValueError("task: accuracy needs labels or classes, got targets")
    if network.widths[-1] < outputs or (task.kind == "binary" and network.widths[-1] > 1):
        raise ValueError(f"network: expected {outputs} output(s) for {task}, got {network.widths[-1]}")
    f = forward(network, weights, task.x)
    right = task.y * f[..., 0] > 0 if task.kind == "binary" else f.argmax(-1) == task.y
    return right.to(torch.float64).mean(-1)
