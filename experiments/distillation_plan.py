"""Every run of docs/results/distillation.md, as a list: which teacher, which student, taught how, how long.

All students of one table see about the same number of training images (cases × epochs), with labels or without, so what
differs is what they learn from. An arm's epochs are those of its own study.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

BATCH = 32


class TeacherPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher that is trained for these tables.

    Attributes:
        name: of its model folder.
        study: path below the data folder (``/`` at its end: a set as it is published) or a table's name.
        model: timm name.
        start: model folder whose backbone it starts from; empty starts from scratch.
        epochs: of training.
        learning_rate: peak.
        modality: augmentation.
        licence: of the weights.
        pixels: input.
    """

    name: str
    study: str
    model: str
    epochs: int
    modality: str
    licence: str
    learning_rate: float = 1e-3
    start: str = ""
    pixels: int = 64


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher and what is taught.

    Attributes:
        name: of the pair in files and tables.
        teacher: name of its model folder.
        student: timm name.
        learning_rate: peak, of every arm.
        pixels: the student's input.
    """

    name: str
    teacher: str
    student: str
    learning_rate: float = 2e-3
    pixels: int = 64


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """How it is taught.

    Attributes:
        name: of the arm in files and tables.
        title: what a reader is told.
        study: table without its ``.csv``.
        epochs: of that study.
        teacher: learn from the teacher too; otherwise from labels alone.
        views: on which the teacher answers.
        options: further options of the command.
    """

    name: str
    title: str
    study: str
    epochs: int
    teacher: bool = True
    views: int = 3
    options: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs × arms × seeds."""

    name: str
    title: str
    modality: str
    pairs: tuple[Pair, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0, 1, 2)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One student."""

    table: str
    modality: str
    pair: Pair
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Also its folder."""
        return f"{self.table}/{self.pair.name}/{self.arm.name}/seed-{self.seed}"

    def arguments(self, study: str, teacher: str, out: str) -> list[str]:
        """The command: ``distill …`` of ``medfm-compress``, or ``labels …`` of `distillation_labels`."""
        pair, arm = self.pair, self.arm
        training = ["--image-size", str(pair.pixels), "--modality", self.modality, "--epochs", str(arm.epochs)]
        training += ["--batch-size", str(BATCH), "--learning-rate", str(pair.learning_rate), "--patience", "0"]
        training += ["--device", "cpu", "--seed", str(self.seed), "--out", out, *arm.options]
        if arm.teacher:
            learned = [teacher, "--study", study, "--student", pair.student, "--views", str(arm.views)]
            return ["distill", *learned, *training]
        return ["labels", study, "--teacher", teacher, "--student", pair.student, *training]


TEACHERS = (
    TeacherPlan(
        name="lung-cnn",
        study="lung-histology/",
        model="resnet10t",
        epochs=14,
        learning_rate=2e-3,
        modality="histology",
        licence="LC25000, free use (trained from scratch)",
    ),
    TeacherPlan(
        name="lung-vit",
        study="lung-histology/",
        model="vit_tiny_patch16_224",
        epochs=24,
        modality="histology",
        licence="LC25000, free use (trained from scratch)",
    ),
    TeacherPlan(
        name="skin-cnn",
        study="skin",
        model="resnet10t",
        epochs=12,
        start="lung-cnn",
        modality="dermoscopy",
        licence="CC0-1.0 (ISIC 2017)",
    ),
    TeacherPlan(
        name="skin-vit",
        study="skin",
        model="vit_tiny_patch16_224",
        epochs=12,
        learning_rate=5e-4,
        start="lung-vit",
        modality="dermoscopy",
        licence="CC0-1.0 (ISIC 2017)",
    ),
)

LUNG_CNN = Pair(name="cnn-cnn", teacher="lung-cnn", student="regnetx_002")
LUNG_VIT_CNN = Pair(name="vit-cnn", teacher="lung-vit", student="regnetx_002")
LUNG_VIT = Pair(name="vit-vit", teacher="lung-vit", student="test_vit")
LUNG_HYBRID = Pair(name="vit-hybrid", teacher="lung-vit", student="edgenext_xx_small")

CHEST = Table(
    name="chest",
    title="Chest X-rays, CoAtNet-nano at 128 px to RegNetX-200MF at 64 px",
    modality="radiograph",
    pairs=(Pair(name="coatnet-cnn", teacher="chest", student="regnetx_002"),),
    arms=(
        Arm(name="a", title="labels alone", study="chest", epochs=4, teacher=False),
        Arm(name="b", title="default recipe", study="chest", epochs=4, views=2),
        Arm(name="t", title="the teacher alone", study="chest", epochs=4, views=2, options=("--teacher-weight", "1")),
        Arm(name="c", title="default recipe, 90% of the labels hidden", study="chest-tenth", epochs=4, views=2),
        Arm(name="a10", title="labels alone, 10% of them", study="chest-tenth", epochs=38, teacher=False),
    ),
)
LUNG = Table(
    name="lung",
    title="Lung histology, ten groups a class labelled",
    modality="histology",
    pairs=(LUNG_CNN, LUNG_VIT),
    arms=(
        Arm(name="a", title="labels alone", study="lung", epochs=60, teacher=False),
        Arm(name="b", title="default recipe, labelled tiles", study="lung", epochs=60, views=6,
            options=("--no-unlabelled",)),
        Arm(name="c", title="default recipe, unlabelled tiles too", study="lung", epochs=4),
    ),
)  # fmt: skip
SKIN = Table(
    name="skin",
    title="Dermoscopy",
    modality="dermoscopy",
    pairs=(
        Pair(name="cnn-cnn", teacher="skin-cnn", student="regnetx_002"),
        Pair(name="vit-hybrid", teacher="skin-vit", student="edgenext_xx_small"),
    ),
    arms=(
        Arm(name="a", title="labels alone", study="skin", epochs=10, teacher=False),
        Arm(name="b", title="default recipe, labelled images", study="skin", epochs=10, views=4,
            options=("--no-unlabelled",)),
        Arm(name="c", title="default recipe, 600 unlabelled images too", study="skin", epochs=6, views=4),
    ),
)  # fmt: skip


def _loss(name: str, *losses: str, options: tuple[str, ...] = ()) -> Arm:
    asked = tuple(part for loss in losses for part in ("--loss", loss))
    return Arm(name=name, title=name, study="lung", epochs=3, views=2, options=(*asked, *options))


KL = _loss("kl", "kl=1")
MIXED = (
    _loss("dist", "dist=1"),
    _loss("kl + feature", "kl=1", "feature=0.5"),
    _loss("kl + attention", "kl=1", "attention=0.5"),
    _loss("kl + relational", "kl=1", "relational=0.5"),
)
LOSSES = Table(
    name="losses",
    title="Losses, on lung histology with unlabelled tiles",
    modality="histology",
    pairs=(LUNG_CNN,),
    arms=(
        KL,
        *MIXED,
        _loss("decoupled", "decoupled=1"),
        _loss("kl + dist", "kl=1", "dist=1"),
        _loss("kl, T 1", "kl=1", options=("--temperature", "1")),
        _loss("kl, label weight 0.5", "kl=1", options=("--teacher-weight", "0.5")),
        _loss("kl, label weight 0", "kl=1", options=("--teacher-weight", "1")),
    ),
)
FAMILIES = Table(
    name="families",
    title="Losses for other pairs of families, likewise",
    modality="histology",
    pairs=(LUNG_VIT_CNN, LUNG_VIT, LUNG_HYBRID),
    arms=(KL, *MIXED[1:3]),
)

TABLES = (LOSSES, CHEST, LUNG, SKIN, FAMILIES)


def planned(tables: tuple[Table, ...] = TABLES) -> Iterator[Run]:
    """All runs; every table's first seed comes before any second, so that an early stop leaves whole tables."""
    for position in range(max(len(table.seeds) for table in tables)):
        for table in tables:
            for pair in table.pairs:
                for arm in table.arms:
                    if position < len(table.seeds):
                        seed = table.seeds[position]
                        yield Run(table=table.name, modality=table.modality, pair=pair, arm=arm, seed=seed)
