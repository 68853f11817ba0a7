"""The settings of a search: what it maximises, how it samples, when it stops a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from speaq.config import ConfigError, Section
from speaq.space.ladder import Climb, Ladder, Rung, broken_rungs, on_axis
from speaq.space.parameters import Plain

Prior = Literal["published", "none"] | dict[str, Plain]
Reference = Literal["published", "baseline"]
CONSTRAINED = ("peak_memory_mib", "latency_ms")
MOST_TRIALS = 10**6  # of a search
MOST_RUNGS = 1000
WITHOUT_PRIOR = ("grid", "qmc")  # samplers whose points are laid out beforehand
PRIOR: Prior = "none"  # of a search that names none, with a sampler that can follow one


def check_trials(trials: int | None) -> None:
    """Raises ConfigError for a number given by --trials that no search can have."""
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise ConfigError(f"--trials {trials}: between 1 and {MOST_TRIALS}")


_SCHEDULER_KNOBS = {
    "grace_steps": ("asha", "hyperband", "median"),
    "reduction_factor": ("asha", "hyperband"),
    "brackets": ("hyperband",),
    "min_trials": ("median",),
    "perturb_steps": ("pbt",),
    "quantile": ("pbt",),
}


def _usual_prior(settings: Mapping[str, Any]) -> Prior:
    return "none" if settings.get("sampler") in WITHOUT_PRIOR else PRIOR


class SearchConfig(Section):
    """What a search does where the command line does not say otherwise."""

    objective: list[str] = Field(
        ["F@50"], min_length=1, max_length=2, description="metrics to maximise; two give a Pareto front"
    )
    trials: int = Field(20, ge=1, le=MOST_TRIALS, description="trials in all, the references included")
    references: list[Reference] = Field(
        ["published", "baseline"],
        description="settings that are trained first and never stopped early, to compare with; fewer of them save "
        "their cost",
    )
    points: list[dict[str, Plain]] = Field(
        default=[],
        description="settings of your own, tried after the references and before all others; a parameter that one "
        "leaves out is as in the published setting",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the sampler")
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "nsga3", "random", "qmc", "grid"] = Field(
        "tpe", description="Optuna's sampler"
    )
    prior: Prior = Field(
        default_factory=_usual_prior,
        description="where good settings are expected: some trials are drawn around the published setting, or around "
        "values that are given by dotted key, instead of by the sampler, fewer and fewer of them; not with grid, qmc",
    )
    prior_strength: float = Field(
        5.0, ge=0, description="trials after which every second one is drawn from the prior; before, more of them"
    )
    scheduler: Literal["asha", "hyperband", "median", "pbt", "none"] = Field(
        "asha",
        description="what stops trials early: successive halving, the same in brackets, or the median rule; pbt also "
        "replaces them by copies of the best ones with other loss weights from there on (a schedule)",
    )
    grace_steps: int | None = Field(
        None, ge=1, description="no trial is stopped before; null: max_steps / reduction_factor², evaluated"
    )
    reduction_factor: float = Field(3.0, gt=1, description="asha, hyperband: one of so many trials passes a rung")
    brackets: int | None = Field(
        None, ge=2, description="hyperband: trials take turns in so many, each with one rung less; null: one a rung"
    )
    decoding: bool = Field(
        False,
        description="every finished trial is compared at its best decoding, found on one half of the validation images "
        "and judged on the other",
    )
    constraints: dict[str, float] = Field(
        default={},
        description="most memory of training, and milliseconds for predicting an image; a trial above is infeasible",
    )
    min_trials: int = Field(3, ge=1, description="median: trials that must have come as far before one is stopped")
    perturb_steps: int | None = Field(
        None, ge=1, description="pbt: steps between its judgements; null: a fifth of max_steps, evaluated"
    )
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="pbt: share of the trials at a step that is replaced, and that is copied"
    )

    ladder: list[Rung] = Field(
        default=[],
        description="asha: rungs from cheap to dear at which trials are judged, first from stored features, then in "
        "full; empty: by grace_steps",
    )
    climb: Climb = Field(
        "again",
        description="ladder: how a trial comes from features to full training: from the start of all trials again, or "
        "on from its own weights with nothing frozen",
    )
    features: str | None = Field(
        None, description="ladder: folder that `speaq cache` made; null: the config's training.features"
    )

    @field_validator("prior", mode="before")
    @classmethod
    def _check_prior(cls, value: Any) -> Any:
        if value in ("published", "none") or (isinstance(value, dict) and value):
            return value
        raise ValueError(f"published, none, or values of parameters by dotted key, not {value!r}")

    def _broken(self) -> Iterator[str]:
        if len(set(self.objective)) < len(self.objective):
            yield "objective names a metric twice"
        if len(set(self.references)) < len(self.references):
            yield "references names a setting twice"
        if self.sampler == "cmaes" and len(self.objective) > 1:
            yield "sampler: cmaes has one objective; use tpe, gp, nsga2 or nsga3 for two"
        if self.sampler == "cmaes" and self.constraints:
            yield "constraints: sampler: cmaes does not look at them; use tpe, gp, nsga2 or nsga3"
        if self.prior != "none" and self.sampler in WITHOUT_PRIOR:
            yield f"prior: sampler: {self.sampler} does not follow one; use tpe, or prior: none"
        if self.prior != "none" and self.prior_strength == 0:
            yield "prior_strength 0 leaves prior without effect; give more, or prior: none"
        for name, limit in self.constraints.items():
            if name not in CONSTRAINED:
                yield f"constraints: {name} is none of {', '.join(CONSTRAINED)}"
            elif limit <= 0:
                yield f"constraints: {name} is above 0, not {limit}"
        for knob, users in _SCHEDULER_KNOBS.items():
            if self.scheduler not in users and getattr(self, knob) != SearchConfig.model_fields[knob].default:
                yield f"{knob} has no effect with scheduler: {self.scheduler} ({', '.join(users)} use it)"
        yield from self._broken_ladder()

    def _broken_ladder(self) -> Iterator[str]:
        """Of a ladder that cannot be climbed, and of knobs that would have no effect."""
        for knob in ("climb", "features"):
            if not self.uses_features and getattr(self, knob) != SearchConfig.model_fields[knob].default:
                yield f"{knob} has no effect without a ladder that has rungs from features"
        if not self.ladder:
            return
        if self.scheduler != "asha":
            yield f"ladder: scheduler: {self.scheduler} does not climb it; asha does"
        if self.grace_steps is not None:
            yield "grace_steps has no effect with a ladder, which names all rungs"
        yield from broken_rungs(self.ladder)

    @property
    def uses_features(self) -> bool:
        """Whether trials are trained from features first."""
        return any(rung.features for rung in self.ladder)

    def on_ladder(self, max_steps: int, eval_every: int) -> Ladder | None:
        """The rungs of a ladder with their steps; None without one. Raises ConfigError."""
        return on_axis(self.ladder, max_steps, eval_every) if self.ladder else None

    def rungs(self, max_steps: int, eval_every: int) -> list[int]:
        """Steps at which asha or pbt judges, below `max_steps`, from the first of any scheduler; empty without one.

        Those of a ladder are on its axis. Raises ConfigError.
        """
        if self.scheduler == "none":
            return []
        if (ladder := self.on_ladder(max_steps, eval_every)) is not None:
            return ladder.judged
        if self.scheduler == "pbt":
            every = self.perturb_steps or max(1, round(max_steps / 5 / eval_every)) * eval_every
            if every >= max_steps or every % eval_every:
                raise ConfigError(
                    f"search.perturb_steps {every} is a multiple of training.eval_every {eval_every} below "
                    f"training.max_steps {max_steps}"
                )
            return list(range(every, max_steps, every))
        grace = self.grace_steps
        if grace is None:  # a rung between evaluations would wait for the next one anyway
            grace = max(1, round(max_steps / self.reduction_factor**2 / eval_every)) * eval_every
        elif grace >= max_steps:
            raise ConfigError(f"search.grace_steps {grace} is not below training.max_steps {max_steps}")
        rungs: list[int] = []
        while grace < max_steps:
            if len(rungs) == MOST_RUNGS:
                raise ConfigError(
                    f"search.reduction_factor {self.reduction_factor} makes more than {MOST_RUNGS} rungs from step "
                    f"{rungs[0]} to {max_steps}; take a larger one, as 2 or 3"
                )
            rungs.append(int(grace))
            grace = grace * self.reduction_factor  # type: ignore[assignment]
        return rungs
