"""The sections of a config, frozen and strict: one field a knob, with its unit and meaning.

Every knob has an effect in every mode, or the combination is refused here or in `speaq.config.config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from speaq.config.user_groups import UserGroup, as_text, parse
from speaq.config.words import BrokenRules


class Section(BaseModel):
    """A part of a config: frozen; unknown keys, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if found := list(self._broken()):
            raise BrokenRules(found)
        return self

    def _broken(self) -> Iterator[str]:
        """The rules between fields that are broken; asked once each field by itself is as it should be."""
        yield from ()


class DataConfig(Section):
    """Which images are drawn and how they are augmented."""

    val: Literal["first_rows", "split"] = Field(
        "first_rows", description="validation split: the first num_val train rows, or the h5's own rows of split 1"
    )
    num_val: int = Field(
        5000, ge=0, description="val: first_rows: images of the validation split, the first ones of the train rows"
    )
    keep_images_without_relations: bool = Field(False, description="also draw images that have boxes but no relation")
    filter_non_overlap: bool = Field(
        False, description="train: drop relations whose two boxes do not overlap, and images left with none"
    )
    resampling: Literal["none", "bilevel", "class_balanced"] = Field(
        "none", description="resampling data set of the train split (bilevel: BGNN's)"
    )
    oversample: float = Field(
        0.0, ge=0, description="resampling: predicates rarer than this share are drawn more often; 0 with `none`"
    )
    undersample: float = Field(
        0.0, ge=0, description="resampling: strength with which frequent relations are dropped; 0 with `none`"
    )
    flip_probability: float = Field(0.5, ge=0, le=1, description="train: chance of a horizontal flip")
    train_sides: tuple[int, ...] = Field(
        (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        min_length=1,
        description="train: the shortest side is resized to one of these, pixels",
    )
    train_max_side: int = Field(1333, ge=8, description="train: the longest side is at most this, pixels")
    crop_probability: float = Field(0.5, ge=0, le=1, description="train: chance of a resize and a random crop before")
    crop_sides: tuple[int, ...] = Field(
        (400, 500, 600), min_length=1, description="train: shortest side before the crop, pixels"
    )
    crop_window: tuple[int, int] = Field((384, 600), description="train: smallest and largest crop side, pixels")
    eval_side: int = Field(800, ge=8, description="evaluation: shortest side, pixels")
    eval_max_side: int = Field(1333, ge=8, description="evaluation: the longest side is at most this, pixels")
    num_workers: int = Field(4, ge=0, description="processes that decode images for each training worker")
    reduced_decoding: bool = Field(
        False,
        description="let the JPEG decoder halve photos that stay larger than the network's size: quicker for photos of "
        "many megapixels, pixels (and sides by one) differ slightly from the method's",
    )
    cache_images: bool = Field(
        False, description="keep decoded images in memory (small data sets; needs num_workers 0)"
    )

    def _broken(self) -> Iterator[str]:
        if self.val == "split" and self.num_val:
            yield (
                f"num_val {self.num_val} has no effect with val: split, where the h5 says which images are val; set 0"
            )
        if self.resampling == "none" and (self.oversample or self.undersample):
            yield ("oversample and undersample have no effect with resampling: none (bilevel or class_balanced)")
        elif self.resampling == "bilevel" and self.oversample == 0:
            yield "resampling: bilevel needs oversample > 0 (0 leaves every image drawn once)"
        elif self.oversample == 0 and self.undersample > 0:
            yield "undersample has no effect while oversample is 0"
        if self.crop_window[0] > self.crop_window[1] or self.crop_window[0] < 1:
            yield "crop_window is [smallest, largest], both at least 1"
        for name in ("train_sides", "crop_sides"):
            if min(getattr(self, name)) < 8:
                yield f"{name}: every side is at least 8 pixels"
        if self.crop_probability == 0 and any(
            getattr(self, name) != type(self).model_fields[name].default for name in ("crop_sides", "crop_window")
        ):
            yield "crop_sides and crop_window have no effect with crop_probability 0"
        if self.cache_images and self.num_workers:
            yield "cache_images keeps images in the training process and needs num_workers: 0"


Part = Literal["backbone", "encoder"]  # of the network, in the order in which a picture passes them


class ModelConfig(Section):
    """Shape of the network."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "small"] = Field(
        "resnet101", description="feature extractor: stride 32, or `small` (toy world: 3 residual stages, stride 16)"
    )
    frozen_stages: int = Field(
        2, ge=0, le=5, description="stages without gradient, from the stem on (2: stem and res2)"
    )
    frozen: tuple[Part, ...] = Field(
        (),
        description="parts that are not trained: [backbone] or [backbone, encoder]. They drop nothing out, and look at "
        "each picture by itself, without the padding of its batch",
    )
    hidden_dim: int = Field(256, ge=4, description="d, channels of the transformer")
    num_heads: int = Field(8, ge=1, description="attention heads; divides hidden_dim")
    feedforward_dim: int = Field(2048, ge=1, description="hidden channels of each feed-forward block")
    num_encoder_layers: int = Field(6, ge=0, description="transformer encoder layers")
    num_decoder_layers: int = Field(6, ge=1, description="L, decoder layers, each supervised")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the transformer")
    num_queries: int = Field(300, ge=1, description="Q, subject queries and as many object queries")
    query_multiple: int = Field(2, ge=1, description="m, relation queries for each subject query (R = Q m)")
    multiply_queries: Literal["relation", "all"] = Field(
        "relation", description="which query sets query_multiple applies to; `all` cannot have groups"
    )
    pre_norm: bool = Field(False, description="normalise before each block instead of after it")
    activation_checkpointing: bool = Field(
        False,
        description="compute activations of trained backbone blocks and transformer layers again in the backward pass: "
        "less memory, about a third more time, the same results",
    )
    reference_points: bool = Field(
        False, description="add a linear map of the query position to the box logits' centre (not in the method)"
    )

    def _broken(self) -> Iterator[str]:
        if self.hidden_dim % self.num_heads:
            yield f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}"
        if self.hidden_dim % 4:
            yield f"hidden_dim {self.hidden_dim} is not a multiple of 4 (sine position encoding)"
        if self.backbone == "small" and self.frozen_stages:
            yield "backbone: small needs frozen_stages 0 (it has no published weights worth freezing)"
        if self.frozen not in ((), ("backbone",), ("backbone", "encoder")):
            yield f"frozen is [], [backbone] or [backbone, encoder], not [{', '.join(self.frozen)}]"
        if self.multiply_queries == "all" and self.query_multiple == 1:
            yield "multiply_queries: all has no effect with query_multiple 1"


Counts = Literal["train", "visual_genome"]


class MatchingConfig(Section):
    """Groupwise query specialization and quality-aware multi-assignment."""

    scheme: Literal["static", "dynamic"] = Field(
        "dynamic", description="static: every relation is repeated K times; dynamic: as often as its quality says"
    )
    max_repeats: int = Field(4, ge=1, description="K, repeats of a relation (dynamic: queries summed over)")
    quality: Literal["min", "max", "geometric", "arithmetic"] | None = Field(
        "max", description="dynamic: how subject and object IoU combine; null with static"
    )
    predicate_weight: float = Field(
        -0.5,
        ge=-1000,
        le=1000,
        description="dynamic: weight of the predicate's score in the quality; 0 turns the term off",
    )
    independent: bool = Field(
        True, description="match every decoder layer on its own; false: one assignment from the summed costs"
    )
    num_groups: int = Field(4, ge=1, description="G, predicate groups with queries of their own; 1 is no grouping")
    group_rule: Literal["halving", "equal_mass", "equal_count"] = Field(
        "halving",
        description="how predicates, most frequent first, are split: halving: each group takes half of the relations "
        "that remain (the method's); equal_mass: an equal share of them; equal_count: equally many predicates",
    )
    group_counts: Counts = Field(
        "train",
        description="predicate frequencies that groups, where there are any, are made from: the train split's, or "
        "visual_genome, the reference's table",
    )
    groups: Annotated[str | None, BeforeValidator(as_text)] = Field(
        None,
        description="groups of your own instead of num_groups and group_rule: FILE.yaml or a mapping, NAME: "
        "[predicate] or {predicates: [predicate], queries: number} for every group; kept as text",
    )
    cost_class: float = Field(1.0, ge=0, description="matching cost of the three class probabilities")
    cost_l1: float = Field(5.0, ge=0, description="matching cost of the three L1 box distances")
    cost_giou: float = Field(2.0, ge=0, description="matching cost of the three generalised IoUs")

    def _broken(self) -> Iterator[str]:
        if self.scheme == "dynamic":
            if self.quality is None:
                yield f"scheme: dynamic needs quality: one of {', '.join(QUALITIES)}"
            if not self.independent:
                yield "scheme: dynamic needs independent: true (its repeats differ by layer)"
        elif self.quality is not None or self.predicate_weight != 0:
            yield "scheme: static has no quality: set quality: null and predicate_weight: 0"
        if self.cost_class == self.cost_l1 == self.cost_giou == 0:
            yield "cost_class, cost_l1 and cost_giou are all 0: nothing is left to match by"
        if self.groups is not None:
            yield from self._broken_by_groups()
        elif self.num_groups == 1 and self.group_rule != type(self).model_fields["group_rule"].default:
            yield "group_rule has no effect with num_groups 1"

    def _broken_by_groups(self) -> Iterator[str]:
        for name in ("num_groups", "group_rule"):
            if (value := getattr(self, name)) != (default := type(self).model_fields[name].default):
                yield f"{name} {value} has no effect with groups, which say it: leave it at {default}"
        if self.group_counts != "train" and self.user_groups[0].queries is not None:
            yield "group_counts has no effect with groups that say their queries"

    @property
    def user_groups(self) -> tuple[UserGroup, ...]:
        """The groups that `groups` names, none without it."""
        return () if self.groups is None else parse(self.groups)

    @property
    def group_number(self) -> int:
        """G, whoever made the groups; 1 is no grouping."""
        return len(self.user_groups) or self.num_groups


QUALITIES = ("min", "max", "geometric", "arithmetic")


class LossConfig(Section):
    """Weights of the losses."""

    weight_class: float = Field(1.0, ge=0, description="subject and object classification loss")
    weight_predicate: float = Field(1.0, ge=0, description="predicate classification loss")
    weight_l1: float = Field(5.0, ge=0, description="L1 loss of the three boxes")
    weight_giou: float = Field(2.0, ge=0, description="generalised-IoU loss of the three boxes")
    no_object_weight: float = Field(0.1, gt=0, description="class weight of no-object")
    no_relation_weight: float = Field(0.1, gt=0, description="class weight of no-relation")
    oversample: float = Field(
        0.07, ge=0, description="predicate loss weights: predicates rarer than this share weigh more; 0 turns them off"
    )
    undersample: float = Field(1.5, ge=0, description="predicate loss weights: exponent; 0 turns them off")
    schedule: tuple[dict[str, float], ...] = Field(
        (),
        description="changes of the values above while training, each from a number of steps on: "
        "[{step: 500, weight_predicate: 2.0}, …]",
    )

    def _broken(self) -> Iterator[str]:
        if (self.oversample == 0) != (self.undersample == 0):
            yield "oversample and undersample are both 0 (no re-weighting) or both above 0"
        steps = [change.get("step", 0.0) for change in self.schedule]
        if steps != sorted(set(steps)) or any(step < 1 or step != int(step) for step in steps):
            yield "schedule: every change has a step, whole numbers of at least 1 that rise"
            return
        for change in self.schedule:
            if unknown := change.keys() - self.schedulable() - {"step"}:
                yield f"schedule: {min(unknown)} is none of {', '.join(sorted(self.schedulable()))}"
            if len(change) == 1:
                yield f"schedule: nothing changes at step {change['step']:.0f}"
            if not unknown:
                self.after(int(change["step"]))

    @classmethod
    def schedulable(cls) -> set[str]:
        """Names of the values that a schedule can change."""
        return cls.model_fields.keys() - {"schedule"}

    def after(self, steps: int) -> LossConfig:
        """What holds for the next step when `steps` are done. Raises ValueError where a change breaks a rule."""
        values = self.model_dump(exclude={"schedule"})
        for change in self.schedule:
            if change["step"] <= steps:
                values |= {name: value for name, value in change.items() if name != "step"}
        return LossConfig(**values)


Heads = Literal["keep", "matching", "new"]


class TrainingConfig(Section):
    """Optimisation, checkpoints and devices."""

    max_steps: int = Field(150_000, ge=1, description="optimizer steps")
    batch_size: int = Field(20, ge=1, description="images of a step, over all workers")
    micro_batch_size: int | None = Field(
        None, ge=1, description="images at once on a worker; gradients accumulate to batch_size. null: all of them"
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW learning rate")
    backbone_multiplier: float = Field(0.1, gt=0, description="factor of the backbone's learning rate")
    relation_multiplier: float = Field(
        1.0, gt=0, description="factor of the relation stream's learning rate, its queries and predicate head included"
    )
    entity_multiplier: float = Field(
        1.0,
        gt=0,
        description="factor of the learning rate of encoder layers, subject queries (a detector's: all) and, on top of "
        "backbone_multiplier, the backbone",
    )
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay, on every parameter")
    clip_norm: float = Field(0.01, gt=0, description="largest norm of the whole gradient")
    decay_steps: tuple[int, ...] = Field((96_000,), description="steps at which the learning rate is multiplied")
    decay_factor: float = Field(0.1, gt=0, le=1, description="factor at each of decay_steps")
    warmup_steps: int = Field(10, ge=0, description="steps of linear warm-up")
    warmup_factor: float = Field(1.0, gt=0, le=1, description="factor at the first step of the warm-up")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="arithmetic of the forward pass (float16: with a gradient scaler, CUDA only)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    num_threads: int | None = Field(None, ge=1, description="CPU threads of a worker; null: PyTorch's choice")
    init_from: str | None = Field(
        None, description="run folder or checkpoint whose weights to start from (a detector is replicated)"
    )
    init_heads: Heads = Field(
        "keep",
        description="rows of init_from's class and predicate heads that are taken, found by name. keep: all, other "
        "names are refused; matching: those of names that the data has too, the rest start anew; new: none",
    )
    features: str | None = Field(
        None,
        description="folder that `speaq cache` made: train and evaluate from what backbone and encoder, both frozen, "
        "made of each picture once, instead of from the photos",
    )
    backbone_from: str | None = Field(
        None, description="file with a ResNet's weights to start from: torchvision's, DETR's or detectron2's (.pkl)"
    )
    eval_every: int = Field(6_000, ge=1, description="steps between evaluations on val (and checkpoints)")
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints besides; null: at evaluations"
    )
    log_every: int = Field(50, ge=1, description="steps between lines of training losses")
    best_metric: str = Field("F@50", description="metric of the best checkpoint (the detector's is always AP50)")
    deterministic: bool = Field(False, description="CUDA: refuse kernels whose results differ from run to run")

    def _broken(self) -> Iterator[str]:
        if self.warmup_steps == 0 and self.warmup_factor != 1:
            yield "warmup_factor has no effect with warmup_steps 0"
        if list(self.decay_steps) != sorted(set(self.decay_steps)) or any(s < 1 for s in self.decay_steps):
            yield "decay_steps are rising step numbers of at least 1"
        if not self.decay_steps and self.decay_factor != 1:
            yield "decay_factor is 1 where decay_steps is empty (it has no effect)"
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            yield (f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}")
        if self.init_from is not None and self.backbone_from is not None:
            yield "backbone_from has no effect with init_from, which brings a backbone: give one of them"
        if self.init_from is None and self.init_heads != "keep":
            yield f"init_heads: {self.init_heads} has no effect without init_from"
        if self.precision == "float16" and self.device == "cpu":
            yield "precision: float16 needs a CUDA device; use bfloat16 on the CPU"


class InferenceConfig(Section):
    """From raw outputs to ranked triplets."""

    nms_threshold: float = Field(0.5, gt=0, le=1, description="IoU above which boxes of one class are merged")
    pairwise_nms: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="drop a triplet whose subject IoU x object IoU with a better one of the same labels is above this",
    )
    predictions_per_query: int = Field(1, ge=1, description="M, best predicates kept of each query")
    subject_exponent: float = Field(1.0, ge=0, description="exponent of the subject's probability in a triplet's score")
    object_exponent: float = Field(1.0, ge=0, description="exponent of the object's probability in a triplet's score")
    predicate_exponent: float = Field(1.0, ge=0, description="exponent of the predicate's probability in it")
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        description="tau: predicate logits minus tau times the logarithm of the predicate's share of the training "
        "relations (Menon et al. 2021): rare predicates gain",
    )
    layer: int = Field(-1, description="decoder layer whose outputs are decoded, from 0; -1 is the last")

    def _broken(self) -> Iterator[str]:
        if self.subject_exponent == self.object_exponent == self.predicate_exponent == 0:
            yield ("subject_exponent, object_exponent and predicate_exponent are all 0: nothing ranks triplets")


class EvaluationConfig(Section):
    """Metrics and protocol."""

    recall_at: tuple[int, ...] = Field((20, 50, 100), min_length=1, description="K of R@K, ng-R@K, zR@K, mR@K and F@K")
    iou_threshold: float = Field(0.5, gt=0, le=1, description="IoU at which a box counts as found")
    protocol: Literal["published", "strict", "per_query"] = Field(
        "published",
        description="published: several predicates of a pair count, images without predictions are skipped; strict: "
        "the best triplet of each pair, such images count 0; per_query: the best triplet of each query",
    )
    zero_shot: Literal["file", "recompute"] = Field(
        "file", description="triplets of zR: those of zeroshot_triplets.npy, or the split's that training never shows"
    )
    max_val_images: int | None = Field(
        None, ge=1, description="evaluate on so many images of val while training; null: all"
    )
    val_subset: Literal["stratified", "first"] = Field(
        "stratified", description="which of them: predicates in their shares, each at least once; or the first ones"
    )
    batch_size: int | None = Field(None, ge=1, description="images at once; null: the training micro-batch")

    def _broken(self) -> Iterator[str]:
        if list(self.recall_at) != sorted(set(self.recall_at)) or self.recall_at[0] < 1:
            yield "recall_at are rising numbers of at least 1"
        if self.max_val_images is None and self.val_subset == "first":
            yield "val_subset: first has no effect without max_val_images"


class SinksConfig(Section):
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = Field(False, description="write TensorBoard events into the run folder")
    picture: bool = Field(
        False, description="draw loss, recalls, k and groups into training.png in the run folder at each evaluation"
    )
    wandb: Literal["off", "offline", "online"] = Field(
        "off", description="Weights & Biases; online falls back to offline where no key is set or no answer comes"
    )
    wandb_project: str = Field("speaq", min_length=1, description="Weights & Biases project")

    def _broken(self) -> Iterator[str]:
        if self.wandb == "off" and self.wandb_project != "speaq":
            yield "wandb_project has no effect with wandb: off"


def _as_number_or_auto(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"a positive whole number or auto is expected, not {value!r}")


class ResourcesConfig(Section):
    """What one training run takes of a cluster."""

    num_workers: int = Field(1, ge=1, description="training processes (Ray Train); batch_size is split over them")
    min_workers: int | None = Field(
        None, ge=1, description="elastic: as few go on when nodes are lost, more join at an evaluation; null: never"
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of each worker")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of each worker")
    trials_per_gpu: Annotated[int | Literal["auto"], BeforeValidator(_as_number_or_auto)] = Field(
        1, description="trials of a search on one GPU; auto: as many as have room by the peak memory of the first"
    )

    def _broken(self) -> Iterator[str]:
        yield from self._broken_by_sharing()
        if self.min_workers is not None and self.min_workers >= self.num_workers:
            yield (
                f"min_workers {self.min_workers} has no effect with num_workers {self.num_workers}: it must be smaller"
            )

    def _broken_by_sharing(self) -> Iterator[str]:
        if self.trials_per_gpu == 1:
            return
        for name, value, needed in (
            ("gpus_per_worker", self.gpus_per_worker, "1: whole GPUs are shared"),
            ("num_workers", self.num_workers, "1: several workers of one trial must not meet on a GPU"),
        ):
            if value != 1:
                yield (f"trials_per_gpu {self.trials_per_gpu} has no effect with {name} {value:g}: it must be {needed}")

    @property
    def least_workers(self) -> int:
        """With fewer a run waits."""
        return self.min_workers or self.num_workers
