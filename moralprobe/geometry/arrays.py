"""Names for the arrays that the measures take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
Counts = NDArray[Any]
"""Row weights: how often a row counts, as whole numbers, floats or booleans."""
