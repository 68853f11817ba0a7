"""Whether a run is well: how targets meet the queries of each predicate group, gradient norms, what went bad first.

Nothing here waits for the device in a step: remembered are the tensors that the step has made anyway, and what
matching counts on the host. They are read every `training.log_every` steps, in one transfer, or when a run has failed.
With several workers all figures are those of the first worker's images.

Letters: G predicate groups, L decoder layers, N parameters with a gradient.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speaq.config import Config
from speaq.matching.groups import PredicateGroups
from speaq.structures import IntArray, split_by_counts
from speaq.training import distributed

log = logging.getLogger(__name__)

REMEMBERED = 50  # steps that a failure is explained by
STARVING_AFTER = 10  # logged steps in which a group's queries got no target
RISEN = 10.0  # times the gradient norm must have grown to be named as a cause
LARGE_WEIGHT = 1e3  # weights of a network that trains are of the order of 1


@dataclass(frozen=True)
class _Step:
    number: int  # from 1
    parts: Mapping[str, Tensor]  # 0-d
    norms: Tensor  # [N]
    by_group: IntArray | None  # see `SpeaQLoss.by_group`


class Health:
    """The last steps of a run."""

    def __init__(
        self, config: Config, model: nn.Module, groups: PredicateGroups | None, predicates: Sequence[str]
    ) -> None:
        """`predicates` are their names; `groups` is None where there is no grouping."""
        self._config = config
        self._model = model
        self._groups = groups
        self._predicates = predicates
        self._steps: deque[_Step] = deque(maxlen=REMEMBERED)
        self._shares: deque[list[float]] = deque(maxlen=STARVING_AFTER)  # matched share of every group
        self._warned: set[int] = set()

    def resume(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the lines of metrics.jsonl that a resumed run goes on from."""
        for line in lines:
            names = [f"train/matched_share_group{g + 1}" for g in range(len(self._queries))]
            if all(name in line for name in names):
                self._shares.append([line[name] for name in names])
        self._warned.update(self._starving())

    def add(self, step: int, parts: Mapping[str, Tensor], norms: Tensor, by_group: IntArray | None = None) -> None:
        """Remembers a step, counted from 1: its losses with `gradient_norm`, and `clip_gradients`' norms [N].

        `by_group` is what `SpeaQLoss.by_group` says, over all images of the step; a detector has none.
        """
        self._steps.append(_Step(step, parts, norms, by_group))

    def figures(self) -> dict[str, float | None]:
        """Scalars of the last step, by name, None where they are not finite. Warns once of each group that starves.

        Losses, class errors and mean repeats as the criterion names them, `gradient_norm`, and
        `gradient_norm_<part of the model>`; `nonfinite_steps`: among those remembered, steps whose gradient is not
        finite (in float16 the scaler skips them); of SpeaQ also `matched_share_group<g>`: share of the group's relation
        queries that got a target, over all layers and images; `overflow_group<g>`: share of the group's targets
        that other groups' queries got (None where it has no target); `unmatched_share` of all targets; and
        `starving_groups`: how many got no target in the last logged steps.
        """
        last = self._steps[-1]
        norms = torch.stack([step.parts["gradient_norm"] for step in self._steps])
        modules = {f"gradient_norm_{name}": norm for name, norm in self._module_norms(last.norms)}
        named = {**last.parts, **modules, "nonfinite_steps": (~norms.isfinite()).sum()}
        values = torch.stack([value.float() for value in named.values()]).tolist()  # one transfer for all
        finite = {name: value if math.isfinite(value) else None for name, value in zip(named, values, strict=True)}
        return {**finite, **self._matching(last.by_group)}

    def explain(self, step: int, found: str | None = None) -> str:
        """One line on a run that has diverged: what is not finite, since when, what led there, what to change.

        Args:
            step: where it was noticed, from 1.
            found: what was noticed there, unless it is the remembered losses themselves.
        """
        first = self._first_loss() or self._first_gradient()
        what = first or f"step {step}: {found or 'the loss is not finite'}"
        led = [text for text in (self._rise(), None if first else self._weights()) if text]
        return "; ".join([what, *led, self._advice(step)])

    @property
    def _queries(self) -> list[int]:
        """[G] relation queries of every group; one group where there is no grouping."""
        model = self._config.model
        subject_queries = (model.num_queries,) if self._groups is None else self._groups.queries
        return [count * model.query_multiple for count in subject_queries]

    def _module_norms(self, norms: Tensor) -> Iterator[tuple[str, Tensor]]:
        names = [name.partition(".")[0] for name in self._trained()]
        parts = [(name, len(list(some))) for name, some in itertools.groupby(names)]
        for (name, _), some in zip(parts, split_by_counts(norms, [count for _, count in parts]), strict=True):
            yield name, torch.linalg.vector_norm(some)

    def _trained(self) -> list[str]:
        return [name for name, parameter in self._model.named_parameters() if parameter.requires_grad]

    def _matching(self, by_group: IntArray | None) -> dict[str, float | None]:
        if by_group is None:
            return {}
        images = self._config.training.batch_size // distributed.world()[1]
        possible = np.array(self._queries) * self._config.model.num_decoder_layers * images
        shares = by_group[:, :-1].sum(0) / possible
        targets = by_group.sum(1)
        overflow = targets - by_group.diagonal() - by_group[:, -1]
        self._shares.append(shares.tolist())
        figures: dict[str, float | None] = {}
        for g, share in enumerate(shares.tolist(), start=1):
            figures[f"matched_share_group{g}"] = share
            figures[f"overflow_group{g}"] = float(overflow[g - 1] / targets[g - 1]) if targets[g - 1] else None
        figures["unmatched_share"] = float(by_group[:, -1].sum() / targets.sum()) if targets.any() else None
        starving = self._starving()
        for group in sorted(starving - self._warned) if distributed.world()[0] == 0 else ():
            log.warning("%s", self._starvation(group))
        self._warned |= starving
        return {**figures, "starving_groups": float(len(starving))}

    def _starving(self) -> set[int]:
        if self._groups is None or len(self._shares) < STARVING_AFTER:
            return set()
        return {g for g in range(len(self._queries)) if not any(shares[g] for shares in self._shares)}

    def _starvation(self, group: int) -> str:
        assert self._groups is not None
        members, count = self._groups.predicates[group], len(self._queries)
        return (
            f"predicate group {group + 1} of {count} starves: its {self._queries[group]} relation queries got no "
            f"target in the last {STARVING_AFTER} logged steps, so they learn nothing; its predicates are "
            f"{', '.join(self._predicates[p] for p in members)}; lower matching.num_groups ({count}), or draw these "
            "predicates more often (data.resampling)"
        )

    def _first_loss(self) -> str | None:
        """The first of the remembered steps with a loss that is not finite."""
        for step in self._steps:
            losses = {name: float(value) for name, value in step.parts.items() if name.startswith("loss_")}
            bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
            if bad:
                name, value = next(iter(bad.items()))
                return f"step {step.number}: {_spelled(name)} is {value} ({len(bad)} of {len(losses)} losses)"
        return None

    def _first_gradient(self) -> str | None:
        """The same of gradients. In float16 steps with such gradients are left out and do no harm."""
        if self._config.training.precision == "float16":
            return None
        for step in self._steps:
            norms = step.norms.tolist()
            bad = [name for name, norm in zip(self._trained(), norms, strict=True) if not math.isfinite(norm)]
            if bad:
                return (
                    f"step {step.number}: the gradient of {bad[0]} is not finite ({len(bad)} of {len(norms)} "
                    "parameters), all losses are"
                )
        return None

    def _rise(self) -> str | None:
        norms = [norm for step in self._steps if math.isfinite(norm := float(step.parts["gradient_norm"]))]
        if len(norms) < 2:
            return None
        first, last = norms[0], max(norms[1:])
        if last < RISEN * first:
            return None
        return f"the gradient norm rose from {first:.3g} to {last:.3g} over the last {len(self._steps)} steps"

    def _weights(self) -> str | None:
        largest = {name: float(p.detach().abs().max()) for name, p in self._model.named_parameters() if p.numel()}
        bad = [name for name, value in largest.items() if not math.isfinite(value)]
        if bad:
            return f"the weights {bad[0]} are not finite ({len(bad)} of {len(largest)} parameters)"
        name = max(largest, key=lambda name: largest[name])
        return f"weights reach {largest[name]:.3g} ({name})" if largest[name] > LARGE_WEIGHT else None

    def _advice(self, step: int) -> str:
        config = self._config.training
        if step == 1:
            start = config.init_from or config.backbone_from or "random weights"
            return f"nothing was learned yet: it started from {start}"
        return f"lower training.learning_rate ({config.learning_rate:g})" + (
            f" or training.clip_norm ({config.clip_norm:g})" if config.clip_norm > 1 else ""
        )


def _spelled(name: str) -> str:
    """`loss_giou_subject_1` → loss_giou_subject of decoder layer 2."""
    stem, _, layer = name.rpartition("_")
    return f"{stem} of decoder layer {int(layer) + 1}" if layer.isdigit() else f"{name} of the last decoder layer"
