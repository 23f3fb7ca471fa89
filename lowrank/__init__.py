"""Weight decay, low-rank bias and model merging: the theorems of arXiv 2502.17340, run.

task → network → objective → training → solution → certificates → bounds → claims → figure.
`figures`, `bounds`, `exact` and `enclosure` are imported by name; everything else is here.
"""

from .certificates import (
    angles,
    clarke_distance,
    low_rank_bias,
    nearest_gradient,
    stationarity,
    window_alignment,
    window_stationarity,
)
from .claims import ClaimError, at_least, at_most, check, deviation, table
from .descent import Solution, TrainingError, gradient_descent, trained
from .dual import dual_coefficients, gate_means
from .first_order import first_order_departure
from .flow import gradient_flow
from .networks import Network, Weights, forward, initialise, rotate_hidden
from .merge_changes import decision_distance, layer_changes, predicted_change, second_moments
from .merging import average, interference, merge, sum_weights, task_arithmetic, ties
from .objective import (
    Objective,
    accuracy,
    data_loss,
    effective_radius,
    loss_gradients,
    margins,
    mean_slope,
    regularised_loss,
    residuals,
    weighted_margin,
)
from .parameters import ParameterError, require
from .spectra import (
    effective_rank,
    imbalance,
    layer_alignment,
    layer_norms,
    neuron_gaps,
    norm_gaps,
    nuclear_norm,
    numerical_rank,
    singular_values,
    spectral_ratio,
    stable_rank,
    tail_norm,
)
from .stationary import Polished, polish
from .tasks import Task, coherence, digits, orthogonal_pair, radius, random_rotation, teacher

__version__ = "0.1.0"
