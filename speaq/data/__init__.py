"""Files → scene graphs → samples → batches."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used: the message names file, row, field, rule and value in one line."""
