"""What learns: bias-free fully connected networks, as a spec without tensors and a tuple of weight stacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _require

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Activation:
    """σ, and the chain rule `backward(signal, z)` = signal ⊙ σ′(z), which saves a pass over memory where σ′ is simple;
    `degree` p where σ(az) = a^p σ(z) for every a > 0, None where σ is not homogeneous; `slopes`, σ′ left and right of 0
    where σ has a kink there, None where it has none."""

    value: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    degree: int | None
    slopes: tuple[float, float] | None = None


_LEAK = 0.1


def _gelu_slope(z: Tensor) -> Tensor:
    return torch.special.ndtr(z) + z * torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5


# ReLU and leaky ReLU have no derivative at 0; like torch we take the one from the left. threshold_backward is the
# kernel that torch's own ReLU uses, and ten times faster than masking.
ACTIVATIONS = {
    "relu": Activation(lambda z: z.clamp_min(0.0), lambda s, z: torch.ops.aten.threshold_backward(s, z, 0.0), 1, (0.0, 1.0)),
    "leaky_relu": Activation(
        lambda z: torch.where(z > 0, z, _LEAK * z), lambda s, z: torch.where(z > 0, s, _LEAK * s), 1, (_LEAK, 1.0)
    ),
    "linear": Activation(lambda z: z, lambda s, z: s, 1),
    "relu2": Activation(lambda z: z.clamp_min(0.0) ** 2, lambda s, z: 2 * s * z.clamp_min(0.0), 2),
    "relu3": Activation(lambda z: z.clamp_min(0.0) ** 3, lambda s, z: 3 * s * z.clamp_min(0.0) ** 2, 3),
    "tanh": Activation(torch.tanh, lambda s, z: s * (1 - torch.tanh(z) ** 2), None),
    "gelu": Activation(torch.nn.functional.gelu, lambda s, z: s * _gelu_slope(z), None),
}


@dataclass(frozen=True)
class Network:
    """f(x) = W_K σ(W_{K−1} σ(… σ(W_1 x))), `widths` = (d, m_1, …, m_{K−1}, c), no biases.

    `activation` is relu | leaky_relu (slope 0.1) | linear | relu2 | relu3 | tanh | gelu. Raises ValueError for fewer
    than two widths, a width below 1, or an unknown activation.
    """

    widths: tuple[int, ...]
    activation: str = "relu"

    def __post_init__(self):
        widths = tuple(_require.instance("widths", self.widths, Sequence))
        if len(widths) < 2:
            raise ValueError(f"widths: expected at least (inputs, outputs), got {widths}")
        for k, width in enumerate(widths):
            _require.integer(f"widths[{k}]", width, minimum=1)
        _require.choice("activation", self.activation, ACTIVATIONS)
        object.__setattr__(self, "widths", widths)

    @property
    def depth(self) -> int:
        """K, the number of weight matrices."""
        return len(self.widths) - 1

    @property
    def degree(self) -> int | None:
        """p with σ(az) = a^p σ(z) for a > 0; None where the activation is not homogeneous."""
        return ACTIVATIONS[self.activation].degree


def initialise(
    network: Network, *, members: tuple[int, ...] | int = (), scale: float = 1.0, generator: torch.Generator
) -> Weights:
    """Independent Gaussian weights, W_k ~ N(0, scale² / m_{k−1}), each (*members, m_k, m_{k−1})."""
    _require.instance("network", network, Network)
    _require.number("scale", scale, minimum=0.0)
    _require.generator(generator)
    members = tuple(
        _require.integer("members", count, minimum=1)
        for count in (members if isinstance(members, Sequence) else (members,))
    )
    return tuple(
        torch.randn(*members, rows, columns, generator=generator, dtype=torch.float64) * scale / columns**0.5
        for columns, rows in zip(network.widths[:-1], network.widths[1:])
    )


def check_weights(network: Network, weights: Weights) -> Weights:
    """`weights` if they fit `network`; raises TypeError or ValueError naming the layer, its shape and a remedy."""
    if not isinstance(weights, (tuple, list)) or len(weights) != network.depth:
        got = len(weights) if isinstance(weights, (tuple, list)) else type(weights).__name__
        raise ValueError(f"weights: expected a tuple of {network.depth} tensors, got {got}")
    for k, (w, columns, rows) in enumerate(zip(weights, network.widths[:-1], network.widths[1:]), start=1):
        if not isinstance(w, Tensor) or w.dtype != torch.float64:
            got = w.dtype if isinstance(w, Tensor) else type(w).__name__
            raise TypeError(f"W_{k}: expected a float64 tensor, got {got}")
        if w.shape[-2:] != (rows, columns) or w.shape[:-2] != weights[0].shape[:-2]:
            raise ValueError(
                f"W_{k}: expected {(*weights[0].shape[:-2], rows, columns)}, got {tuple(w.shape)}; "
                "build weights with initialise()"
            )
    return tuple(weights)


def rotate_hidden(weights: Weights, rotations) -> Weights:
    """W_k → O_k W_k O_{k−1}ᵀ with O_0 = I and O_K = I, from one O_k (*E, m_k, m_k) for each of the K−1 hidden layers.

    The basis of each hidden layer is turned: a linear network's output stays if the O_k are orthogonal, that of another
    if they are permutations. Leading axes of weights and rotations broadcast. Raises ValueError for another number of
    rotations or other sizes.
    """
    rotations = [_require.tensor(f"O_{k}", o) for k, o in enumerate(rotations, start=1)]
    if len(rotations) != len(weights) - 1:
        raise ValueError(f"rotations: expected one for each of {len(weights) - 1} hidden layers, got {len(rotations)}")
    for k, (o, w) in enumerate(zip(rotations, weights), start=1):
        if o.shape[-2:] != (w.shape[-2], w.shape[-2]):
            raise ValueError(f"O_{k}: expected (*E, {w.shape[-2]}, {w.shape[-2]}), got {tuple(o.shape)}")
    turned = [o @ w for o, w in zip(rotations, weights)] + [weights[-1]]
    return (turned[0], *(w @ o.mT for w, o in zip(turned[1:], rotations)))


def hidden_states(network: Network, weights: Weights, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Pre-activations z_k = W_k a_{k−1} and activations a_0 = x, a_k = σ(z_k), samples as columns (*E, m_k, n).

    The last z is the output; no activation follows it.
    """
    activate = ACTIVATIONS[network.activation].value
    activations, preactivations = [x.mT], []
    for k, w in enumerate(weights, start=1):
        preactivations.append(w @ activations[-1])
        if k < network.depth:
            activations.append(activate(preactivations[-1]))
    return preactivations, activations


def forward(network: Network, weights: Weights, x: Tensor) -> Tensor:
    """f(x), (*E, n, c) from x (n, d) or (*E, n, d). Raises where shapes do not fit, naming the layer."""
    _require.instance("network", network, Network)
    check_weights(network, weights)
    x = _require.tensor("x", x)
    if x.ndim < 2 or x.shape[-1] != network.widths[0]:
        raise ValueError(f"x: expected (*E, n, {network.widths[0]}), got {tuple(x.shape)}")
    return hidden_states(network, weights, x)[0][-1].mT
