"""Networks with fewer neurons that compute the same: what is left when copies are merged and vanished neurons taken out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .networks import Network, Weights
from .spectra import numerical_rank

_NEGLIGIBLE = 1e-6  # share of the largest neuron's ‖row‖·‖column‖ below which a neuron is taken out


@dataclass(frozen=True, eq=False)
class Compact:
    """`weights` of the smaller network and `shares`, matrices C_k (m_k, smaller width) with orthonormal columns, identities
    at both ends: W_k = C_k W_k^compact C_{k−1}ᵀ has full width again."""

    weights: Weights
    shares: Weights

    def lifted(self) -> Weights:
        """The weights at full width."""
        return tuple(after @ w @ before.mT for w, before, after in zip(self.weights, self.shares, self.shares[1:]))


def reduced(network: Network, weights: Weights) -> Compact:
    """Fewer neurons for nearly the same function: a linear network brought down to its rank, any other without the neurons
    that have vanished. No layer may be 0."""
    identity = [torch.eye(width, dtype=torch.float64) for width in network.widths]
    if network.activation != "linear" or network.depth == 1:
        return _pruned(Compact(tuple(w.clone() for w in weights), tuple(identity)))
    # at rest neighbouring layers are balanced, so all have one rank, which none exceeds
    rank = min(*network.widths, max(int(numerical_rank(w, rtol=1e-4)) for w in weights))
    bases = [torch.linalg.svd(w, full_matrices=False).U[:, :rank] for w in weights[:-1]]
    shares = (identity[0], *bases, identity[-1])
    compact = tuple(after.mT @ w @ before for w, before, after in zip(weights, shares, shares[1:]))
    return Compact(compact, shares)


def _pruned(compact: Compact) -> Compact:
    for k in range(len(compact.weights) - 1):
        size = _sizes(compact.weights, k)
        groups = [[j] for j in torch.nonzero(size >= _NEGLIGIBLE * size.max()).flatten().tolist()]
        compact = _regrouped(compact, k, groups)
    return compact


def merged(compact: Compact, alike: float) -> Compact:
    """Neurons whose rows and columns point the same way become one, and vanished ones go: for slopes that do not depend on
    the size of z, Σ_j c_j σ(r_j·h) = c σ(r·h) with c rᵀ = Σ_j c_j r_jᵀ."""
    for k in range(len(compact.weights) - 2, -1, -1):
        rows, columns = (torch.nn.functional.normalize(a, dim=1) for a in (compact.weights[k], compact.weights[k + 1].mT))
        close = (rows @ rows.mT > 1 - alike) & (columns @ columns.mT > 1 - alike)
        size = _sizes(compact.weights, k)
        left, groups = size >= _NEGLIGIBLE * size.max(), []
        for j in size.argsort(descending=True).tolist():
            if left[j]:
                chosen = close[j] & left
                chosen[j] = True
                groups.append(torch.nonzero(chosen).flatten().tolist())
                left = left & ~chosen
        compact = _regrouped(compact, k, groups)
    return compact


def _sizes(weights: Weights, k: int) -> Tensor:
    return torch.linalg.vector_norm(weights[k], dim=1) * torch.linalg.vector_norm(weights[k + 1], dim=0)


def _regrouped(compact: Compact, k: int, groups: list[list[int]]) -> Compact:
    """`compact` with one neuron of hidden layer k for each group, of equal norm on its way in and out where it is merged."""
    into, out_of, share = compact.weights[k], compact.weights[k + 1], compact.shares[k + 1]
    size = _sizes(compact.weights, k)
    new_rows, new_columns, new_shares = [], [], []
    for group in groups:
        if len(group) == 1:
            new_rows.append(into[group[0]])
            new_columns.append(out_of[:, group[0]])
            new_shares.append(share[:, group[0]])
            continue
        u, s, vh = torch.linalg.svd(out_of[:, group] @ into[group], full_matrices=False)
        sign = torch.sign(vh[0] @ into[group].sum(0))
        new_rows.append(s[0].sqrt() * sign * vh[0])
        new_columns.append(s[0].sqrt() * sign * u[:, 0])
        new_shares.append(share[:, group] @ (size[group] / size[group].sum()).sqrt())
    weights, shares = list(compact.weights), list(compact.shares)
    weights[k], weights[k + 1] = torch.stack(new_rows), torch.stack(new_columns, dim=1)
    shares[k + 1] = torch.stack(new_shares, dim=1)
    return replace(compact, weights=tuple(weights), shares=tuple(shares))
