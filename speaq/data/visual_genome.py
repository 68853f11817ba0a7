"""Data sets in the four-file layout of Visual Genome → splits of scene graphs: the public names in one place.

`files` and `tables` read, `rules` judge, `loading` puts both together, `records` and `split` hold the result.
Source: method section 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from speaq.data import DataError
from speaq.data.check import check
from speaq.data.files import Files, Problem, Problems, find_files, summary
from speaq.data.loading import load
from speaq.data.records import SplitName, VisualGenome
from speaq.data.rules import check_form
from speaq.data.split import Split

__all__ = ["Files", "Problem", "Split", "SplitName", "VisualGenome", "check", "find_files", "open_data"]

logger = logging.getLogger(__name__)


def open_data(
    directory: Path,
    *,
    need_images: bool = True,
    need_train: bool = True,
    box_scale: Literal[512, 1024] = 1024,
    log: Callable[[str], None] = logger.warning,
) -> VisualGenome:
    """Opens a data set.

    Args:
        directory: holds the four files.
        need_images: whether photos must be there; without, sizes are those of image_data.json.
        need_train: whether something to train on must be there.
        box_scale: which of `boxes_1024` and `boxes_512` to use.
        log: receives warnings, one line each.

    Raises:
        DataError: the first problems, in one line.
    """
    problems: Problems = []
    data = load(directory, problems, need_images=need_images, need_train=need_train, box_scale=box_scale)
    if data is not None:
        problems += check_form(
            data.files.annotations.name, data.annotations, data.images.sizes_hw, box_scale, "warning"
        )
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or data is None:
        raise DataError(summary(directory, errors))
    warnings = [problem for problem in problems if problem.severity == "warning"]
    if warnings:
        log(summary(directory, warnings))
    return data
