"""How a run can end before its last step. Light to import: whoever runs trainings need not load torch for it."""

from __future__ import annotations


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run was saved and can be resumed."""


class StopTraining(Exception):
    """Raised by a `report` callable to end the run early; the run counts as stopped, not failed."""


class OutOfMemory(RuntimeError):
    """The device's memory is too small for a step. The run can be resumed with a smaller training.micro_batch_size:
    the images of each step stay the same, the box losses are then averaged over smaller parts of it.
    """


class DivergedError(RuntimeError):
    """The model's outputs or the loss are no longer finite; the message says what led there (`Health.explain`)."""
