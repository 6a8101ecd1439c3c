"""Tails and quantiles of the chi-square, F and Student distributions.

They are scipy.special's: scipy.stats gives the same numbers and takes a second longer to load. It is loaded when the first number
is asked for, as a table without a measured sigma asks for none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def chi_square_tail(value: float, dof: float) -> float:
    """P(chi-square with `dof` > value)."""
    from scipy import special

    return float(special.chdtrc(dof, value))


def chi_square_quantile(probability: float, dof: float) -> float:
    """The value that chi-square with `dof` stays below with this probability."""
    from scipy import special

    return float(special.chdtri(dof, 1.0 - probability))


def f_tail(value: float, dof: float, dof_noise: float) -> float:
    """P(F with (`dof`, `dof_noise`) > value)."""
    from scipy import special

    return float(special.fdtrc(dof, dof_noise, value))


def student_quantile(probability: float, dof: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The value that Student's t with `dof` (shape kept) stays below with this probability."""
    from scipy import special

    return np.asarray(special.stdtrit(np.asarray(dof, dtype=np.float64), probability), dtype=np.float64)


def student_probability(value: float, dof: float) -> float:
    """P(Student's t with `dof` < value)."""
    from scipy import special

    return float(special.stdtr(dof, value))
