"""Fixtures of the data sets that several modules here read."""

from tests.helpers.coco_sets import photos as photos
