"""A search without Ray: trials are asked for and told by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from launch.search import messages
from launch.search.messages import Finished, Report
from launch.search.promotions import Checkpoint
from launch.search.searcher import Search
from speaq import config as configs
from speaq import space as spaces
from speaq.config import BASELINE, PUBLISHED, Config
from speaq.study.ledger import Ledger
from speaq.study.plan import Plan, with_settings

BASE = configs.apply(Config(), {"training.max_steps": 90, "training.eval_every": 10, "training.decay_steps": [50]})


RATE = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}


GROUPS = {"type": "int", "low": 1, "high": 6}


def make_plan(
    trials: int = 6,
    objective: tuple[str, ...] = ("F@50",),
    parameters: dict[str, Any] | None = None,
    **search_: Any,
) -> Plan:
    space = spaces.from_dict(
        {
            "search": {"objective": list(objective), **search_},
            "parameters": parameters or {"training.learning_rate": RATE, "matching.num_groups": GROUPS},
        }
    )
    references = {"published": configs.apply(BASE, PUBLISHED), "baseline": configs.apply(BASE, BASELINE)}
    return Plan(BASE, with_settings(space, trials=trials), references)


class Fake:
    """Plays Tune: asks, reports, ends."""

    def __init__(self, plan: Plan, folder: Path, checkpoint: Checkpoint = lambda trial: None) -> None:
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.search = Search(plan, self.ledger, checkpoint=checkpoint)
        self.plan, self.count = plan, 0

    def ask(self) -> tuple[str, Any]:
        self.count += 1
        name = f"tune{self.count}"
        suggestion = self.search.suggest(name)
        if isinstance(suggestion, dict):
            self.search.started(name)
        return name, suggestion

    def report(self, name: str, step: int, value: float | None) -> None:
        metrics = dict.fromkeys([*self.plan.objective, "F@50"], value)
        self.search.on_trial_result(name, messages.report_result(Report(step, metrics, 1.0), value))

    def finish(self, name: str, value: float | None = 0.5, step: int = 90) -> None:
        metrics = dict.fromkeys([*self.plan.objective, "F@50"], value)
        last = messages.report_result(Report(step, metrics, 1.0), value)
        self.search.on_trial_complete(name, messages.final_result(last, Finished(metrics, step, step, seconds=2.0)))

    def prune(self, name: str, step: int, value: float) -> None:
        self.search.on_trial_complete(name, messages.report_result(Report(step, {"F@50": value}, 1.0), value))

    def entry(self, name: str) -> Any:
        return self.search.entry(name)


def trial(name: str, protected: bool = False) -> Any:
    return SimpleNamespace(config={"trial": name, "protected": protected}, trial_id=f"tune-{name}")


def judge(scheduler: Any, name: str, step: int, value: float, protected: bool = False, **metrics: float | None) -> str:
    """Keywords are further metrics, `R50` for R@50; the scalar that Tune carries says the opposite of the value."""
    told = {"F@50": value, **{f"{key.removesuffix('50')}@50": other for key, other in metrics.items()}}
    result = messages.report_result(Report(step, told, 1.0), -value)
    decision: str = scheduler.on_trial_result(None, trial(name, protected), result)
    return decision
