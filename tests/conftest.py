"""Settings of every test: no time limits on examples (machines differ), one thread (two cores are shared)."""

from __future__ import annotations

import torch
from hypothesis import settings

settings.register_profile("speaq", deadline=None, max_examples=50)
settings.load_profile("speaq")
torch.set_num_threads(1)
