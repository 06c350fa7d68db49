"""The normal, Student's and the chi-squared distribution, as far as intervals and tests need them: no other library."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
_erf = np.vectorize(math.erf, otypes=[np.float64])


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Standard normal distribution function, elementwise; float64."""
    return 0.5 * (1 + _erf(np.asarray(x, dtype=np.float64) / math.sqrt(2)))


def normal_pdf(x: np.ndarray) -> np.ndarray:
    """Standard normal density, elementwise; float64."""
    return np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)


def chi_squared_tail(x: float) -> float:
    """P(X > x) of the chi-squared distribution with one degree of freedom."""
    return math.erfc(math.sqrt(max(x, 0.0) / 2))


def t_cdf(t: float, df: float) -> float:
    """Student's distribution function with ``df`` > 0 degrees of freedom."""
    tail = 0.5 * _beta_ratio(df / 2, 0.5, df / (df + t * t))
    return 1 - tail if t > 0 else tail


def t_quantile(p: float, df: float) -> float:
    """The ``p`` quantile of Student's distribution, by bisection on its distribution function; exact to about 1e-10."""
    if not 0 < p < 1 or df <= 0:
        raise ValueError(f"no quantile {p} of Student's t with {df} degrees of freedom")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 2.0
    while t_cdf(high, df) < p:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


@cache
def student(freedom: int) -> float:
    """The factor of a 95 % interval of a mean: the 97.5 % quantile of Student's t; NaN below one degree of freedom."""
    return t_quantile(0.975, freedom) if freedom >= 1 else math.nan


def _beta_ratio(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Abramowitz & Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_ratio(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    total = d
    for m in range(1, 500):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * total
