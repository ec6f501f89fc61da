"""Who pays for compression: the rates of classes and groups, and fair comparisons of methods."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from analysis.fairness.at_equal import EqualComparison, compare_at, curve_ranges
    from analysis.fairness.bias_amplification import BiasAmplification, bias_amplification
    from analysis.fairness.calibration import group_calibration
    from analysis.fairness.class_spread import ErrorSpread, error_spread
    from analysis.fairness.group_pies import group_pies
    from analysis.fairness.image_tests import ImageTests, image_tests
    from analysis.fairness.intensification import Intensification, intensification
    from analysis.fairness.max_t import max_t
    from analysis.fairness.outcomes import member_outcomes
    from analysis.fairness.rates import RateChanges, class_rates, group_rates

__all__ = [
    "BiasAmplification", "EqualComparison", "ErrorSpread", "ImageTests", "Intensification", "RateChanges",
    "bias_amplification", "class_rates", "compare_at", "curve_ranges", "error_spread", "group_calibration",
    "group_pies", "group_rates", "image_tests", "intensification", "max_t", "member_outcomes",
]  # fmt: skip

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "at_equal": ["EqualComparison", "compare_at", "curve_ranges"],
        "bias_amplification": ["BiasAmplification", "bias_amplification"],
        "calibration": ["group_calibration"],
        "class_spread": ["ErrorSpread", "error_spread"],
        "group_pies": ["group_pies"],
        "image_tests": ["ImageTests", "image_tests"],
        "intensification": ["Intensification", "intensification"],
        "max_t": ["max_t"],
        "outcomes": ["member_outcomes"],
        "rates": ["RateChanges", "class_rates", "group_rates"],
    },
)
