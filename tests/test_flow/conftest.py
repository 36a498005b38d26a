import numpy as np
import pytest


@pytest.fixture
def flow() -> np.ndarray:
    """Return (17, 23, 2) float32 of up to some 30 px, another in every pixel."""
    return np.random.default_rng(0).normal(0, 10, (17, 23, 2)).astype(np.float32)


@pytest.fixture
def valid() -> np.ndarray:
    """Return (17, 23) bool, about a third false."""
    return np.random.default_rng(1).random((17, 23)) > 0.3
