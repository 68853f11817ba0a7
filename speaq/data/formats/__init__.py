"""Annotations of other data sets, each brought into the form of `speaq.data.coco.form`: one module a format."""

from __future__ import annotations

from typing import Literal

Source = Literal["coco", "reltr", "psg", "gqa", "open-images", "visual-genome"]
