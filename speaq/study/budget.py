"""What a study may cost: `8h`, `90m` by the clock while a driver is at work; `40gpu-h`, `20cpu-h` in its trials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from speaq.config import ConfigError, ResourcesConfig
from speaq.study.ledger import Entry, Ledger


class BudgetSpent(KeyboardInterrupt):
    """Ends a search as Ctrl-C does: trials stay as they are, to be resumed."""


Kind = Literal["wall", "gpu", "cpu"]
_FORM = re.compile(r"(\d+(?:\.\d+)?)(gpu-|cpu-)?(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Budget:
    """An amount of seconds: of the clock, or of all GPUs or CPUs that trials hold."""

    text: str
    kind: Kind
    seconds: float

    def spent(self, ledger: Ledger, resources: ResourcesConfig) -> float:
        """Seconds of this kind that the study has taken, by all its drivers together."""
        if self.kind == "wall":
            return ledger.wall_now()
        return device_seconds(ledger.entries.values(), resources, self.kind)

    def is_spent(self, ledger: Ledger, resources: ResourcesConfig) -> bool:
        """Whether the study has taken all of it."""
        return self.spent(ledger, resources) >= self.seconds


def device_seconds(entries: Iterable[Entry], resources: ResourcesConfig, kind: Kind) -> float:
    """Seconds that trials held GPUs or CPUs: their own time, times what a trial holds; of a shared GPU its share."""
    if kind == "gpu":
        held = sum(entry.seconds * entry.gpu_share for entry in entries)
        return held * resources.num_workers * resources.gpus_per_worker
    return sum(entry.seconds for entry in entries) * resources.num_workers * resources.cpus_per_worker


def parse(text: str, resources: ResourcesConfig) -> Budget:
    """Raises ConfigError for another form, and for GPU hours where trials take no GPU."""
    found = _FORM.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"--budget {text}: the form is 8h, 90m, 40gpu-h or 20cpu-h, above 0 (units s, m, h, d)")
    kind: Kind = "gpu" if found[2] == "gpu-" else "cpu" if found[2] == "cpu-" else "wall"
    if kind == "gpu" and not resources.gpus_per_worker:
        raise ConfigError(f"--budget {text}: resources.gpus_per_worker is 0, so trials take no GPU; give 8h or 20cpu-h")
    return Budget(text.strip(), kind, float(found[1]) * _SECONDS[found[3]])
