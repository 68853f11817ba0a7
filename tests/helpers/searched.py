"""The folder of a finished search, whose trials did not train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.search import messages
from launch.search.messages import Failed, Finished, Report
from speaq import config as configs
from speaq.study.file import Study
from speaq.training.environment import versions
from tests.helpers import cheap_training
from tests.helpers.fake_tune import Fake, make_plan

HOSTILE = "</script><script>document.title='run'</script> & [b] $x_1$"


STEPS = 90  # of a trial that is not stopped


class Search(Fake):
    """A search on paper: recalls are a function of the config."""

    def __init__(self, folder: Path, trials: int, objective: tuple[str, ...] = ("F@50",)) -> None:
        folder.mkdir(exist_ok=True)
        plan = make_plan(trials, objective)
        study = Study(plan, folder / "data", "0123456789abcdef", None, versions())
        (folder / "study.yaml").write_text(study.dump(), encoding="utf-8")
        super().__init__(plan, folder)

    def run(self, ending: str, reason: str = "") -> str:
        """One trial: `finished`, `paused` at step 30, `failed`, or still `running` after step 30."""
        name, suggestion = self.ask()
        config = configs.from_dict(suggestion["config"])
        reached = 30 if ending in ("paused", "running") else STEPS
        last: dict[str, Any] = {}
        for step in range(10, reached + 1, 10):
            metrics = cheap_training.evaluate(config, step)
            last = messages.report_result(Report(step, metrics, step / 10), metrics["F@50"])
            self.search.on_trial_result(name, last)
        if ending == "finished":
            done = Finished(metrics, STEPS, STEPS, seconds=9.0)
            self.search.on_trial_complete(name, messages.final_result(last, done))
        elif ending == "paused":
            self.search.on_trial_complete(name, last)
        elif ending == "failed":
            self.search.on_trial_complete(name, messages.final_result(last, Failed(reason)))
        return str(suggestion["trial"])


def searched(folder: Path, objective: tuple[str, ...] = ("F@50",), finished: int = 14) -> Path:
    """A study that has ended, with a trial that was stopped and one that failed."""
    search = Search(folder, finished + 2, objective)
    for ending in ["finished"] * finished + ["paused", "failed"]:
        search.run(ending, HOSTILE)
    search.ledger.close()
    return folder
