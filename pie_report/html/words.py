"""Numbers as a reader wants them. A missing value is an error here: the templates say why it is missing."""

from collections.abc import Iterable, Mapping
from typing import Any

_Row = Mapping[str, Any]
MINUS = "−"
SMALLEST_P = 0.001


def percent(fraction: float) -> str:
    """Writes a fraction as a percentage with one decimal: 0.1234 -> ``12.3%``."""
    return f"{100 * fraction:.1f}%".replace("-", MINUS)


def share(fraction: float) -> str:
    """Writes a fraction that was asked for as a percentage, with no more decimals than it has: ``50%``."""
    return f"{100 * fraction:.4g}%"


def percent_range(low: float, high: float) -> str:
    """Writes two fractions as a range of percentages: ``12.3–14.0%``."""
    return f"{100 * low:.1f}–{100 * high:.1f}%"


def points(difference: float) -> str:
    """Writes a difference of two fractions in percentage points: ``−1.2``, ``+0.3``, ``0.0``."""
    return _signed(100 * difference)


def points_range(low: float, high: float) -> str:
    """Writes the ends of an interval of a difference in percentage points: ``−1.2 to +0.3``."""
    return f"{points(low)} to {points(high)}"


def p_value(p: float) -> str:
    """Writes a p-value with three decimals: ``0.012``, or ``< 0.001``."""
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def p_equals(p: float) -> str:
    """Writes a p-value as a statement: ``p = 0.012``, or ``p < 0.001``."""
    return f"p {p_value(p)}" if p < SMALLEST_P else f"p = {p_value(p)}"


def count(number: float) -> str:
    """Writes a whole number with thousands separators: ``1,797``."""
    return f"{number:,.0f}"


def decimal(number: float, digits: int = 1) -> str:
    """Writes a number with a fixed count of decimals: ``1,234.5``; its sign is a real minus."""
    return f"{number:,.{digits}f}".replace("-", MINUS)


def signed(number: float) -> str:
    """Writes a number with one decimal and its sign: ``+3.2``."""
    return _signed(number)


def large(number: float) -> str:
    """Writes a large number with three significant digits and a word: ``11.2 million``."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return count(number)


def byte_size(number: float) -> str:
    """Writes bytes in decimal units: ``2.8 MB`` is 2.8 million bytes."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{count(number)} bytes"


def significant(number: float) -> str:
    """Writes a number with two significant digits, however small: ``0.002``, ``1.9e-09``."""
    return f"{number:.2g}"


def capfirst(text: str) -> str:
    """Writes the first letter as a capital and leaves the others as they are: ``flips`` -> ``Flips``."""
    return text[:1].upper() + text[1:]


_NAMES = {
    "spearman": "rank correlation",
    "top_k_iou": "overlap of the top tenth",
    "ssim": "structural similarity (SSIM)",
    "centroid_shift": "shift of the centre",
}


def in_words(name: str) -> str:
    """Writes the name of a method or measure: ``top_k_iou`` -> ``overlap of the top tenth``."""
    return _NAMES.get(name, str.replace(name, "_", " "))


def groupby_keys(rows: Iterable[_Row], *names: str) -> list[tuple[tuple[Any, ...], list[_Row]]]:
    """Groups rows that agree in some fields, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())


def _signed(number: float) -> str:
    text = f"{number:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


FILTERS = {
    function.__name__: function
    for function in (
        *(percent, share, percent_range, points, points_range, p_value, p_equals),
        *(count, decimal, signed, large, byte_size, significant, in_words, capfirst, groupby_keys),
    )
}
