"""Files → scene graphs → samples → batches."""

from __future__ import annotations


class LoaderDied(RuntimeError):
    """A process that decodes images was killed, or gave nothing for minutes. What it worked for can be resumed."""


class DataError(ValueError):
    """Data that cannot be used: the message names file, row, field, rule and value in one line."""


class BadFeatures(DataError):
    """Stored features that are damaged or not whole: nothing can train from them."""
