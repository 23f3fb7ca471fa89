"""Other machines, imitated on this one: settings by which the libraries leave out newer vector instructions.

Sums are then taken in other orders, as on an older processor: other last bits, which training passes on.
"""

from __future__ import annotations

import numpy as np


def imitations() -> dict[str, dict[str, str]]:
    """Environments by the name of the instructions that are left in use; without effect where the processor has no more."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found") or []
    beyond = {"AVX2": [name for name in found if "AVX512" in name or name == "X86_V4"], "SSE": found}
    return {
        "AVX2": _settings("avx2", "AVX2", "Haswell", beyond["AVX2"]),
        "SSE": _settings("default", "COMPATIBLE", "Nehalem", beyond["SSE"]),
    }


def _settings(torch: str, mkl: str, openblas: str, numpy: list[str]) -> dict[str, str]:
    """For torch's own loops, its linear algebra, that of NumPy and SciPy, and NumPy's loops."""
    settings = {"ATEN_CPU_CAPABILITY": torch, "MKL_CBWR": mkl, "OPENBLAS_CORETYPE": openblas}
    return {**settings, "NPY_DISABLE_CPU_FEATURES": " ".join(numpy)} if numpy else settings
