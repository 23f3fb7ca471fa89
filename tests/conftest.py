import os

# One thread a process, as in the chapters: tests already run side by side.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import pytest
import torch


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def task(generator):
    from lowrank import teacher

    return teacher(12, 5, generator=generator)


from hypothesis import settings

settings.register_profile("lowrank", deadline=None, derandomize=True)  # same examples on every run
settings.load_profile("lowrank")
