"""What is asked of each step, of a command's options or a recipe's section alike."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.measure.load_scenario import Harness, LoadPlan, ScenarioName
from medfm_compress.bench.types.operating_rule import parse_rule
from medfm_compress.bench.types.target import TARGETS
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.losses.names import LabelLoss
from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.bundle.manifest import NOT_FOR_CLINICAL_USE
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import MOST_OVERLAP, Blending, Colour, DicomRules, FrameAggregation, Side

ARGUMENT = Meta(extra={"argument": True})
RECIPE_ONLY = Meta(extra={"option": ""})
IMAGE_SIZE = Meta(ge=32, le=1024)


class PretrainStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network, and how it learns from images without labels.

    Attributes:
        model: timm name, or ``hf-hub:owner/name`` (this asks for the network).
        weights: local safetensors, state dict or backbone folder to start from.
        image_size: network input in pixels.
        colour: of the images; without it, that of the study's first image to learn from.
        more: another study whose images are learned from.
        licence: of the weights that it starts from.
        intended_use: what the publisher of those weights says they are for.
        dicom: rules for DICOM input.
        training: how.
        masking: what is hidden.
    """

    model: Annotated[str, ARGUMENT]
    weights: str = ""
    image_size: Annotated[int, IMAGE_SIZE] = 224
    colour: Colour | None = None
    more: tuple[str, ...] = ()
    licence: str = ""
    intended_use: str = ""
    dicom: Annotated[DicomRules, RECIPE_ONLY] = DicomRules()
    training: TrainingConfig = TrainingConfig(epochs=100, batch_size=64, patience=0)
    masking: Masking = Masking()

    def __post_init__(self) -> None:
        check(self)


class EmbedStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The small encoder that learns teachers' features; its input is theirs.

    Attributes:
        student: timm name of the encoder's network.
        weights: local safetensors, state dict or backbone folder of ``pretrain`` that the student starts from.
        more: another study whose images are learned from.
        training: how.
        embedding: what is learned.
    """

    student: str
    weights: str = ""
    more: tuple[str, ...] = ()
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=2e-3, patience=0)
    embedding: EmbeddingDistillation = EmbeddingDistillation()

    def __post_init__(self) -> None:
        check(self)


class AnomalyStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that tells how unlike the normal cases an image is.

    Attributes:
        normal: labels of the study that are normal; every other label is abnormal.
        teachers: encoders whose features are learned; the bundle is held against the scorer that is fitted on those of
            the first.
        embed: the small encoder that learns them, see `EmbedStep`; without it the first teacher itself is shipped.
        fit: the scorer, of the teacher and of the small encoder alike, see `AnomalyFit`.
    """

    normal: tuple[str, ...]
    teachers: tuple[EncoderSource, ...]
    embed: EmbedStep | None = None
    fit: AnomalyFit = AnomalyFit()

    def __post_init__(self) -> None:
        if not self.normal:
            raise InputError("anomaly names no normal label; name those of the study's labels that are normal")
        if not self.teachers:
            raise InputError("anomaly names no teacher; name an encoder whose features are used")
        if self.embed is None and len(self.teachers) > 1:
            raise InputError(
                f"anomaly names {len(self.teachers)} teachers and no 'embed' that learns from them; add it, or name one"
            )


class FinetuneStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the teacher comes from: a model folder as it stands, or a network that is trained here.

    Attributes:
        folder: a model folder, relative to the recipe; nothing else is read then.
        model: timm name, or ``hf-hub:owner/name`` (this asks for the network); of a segmentation
            ``smp:DECODER/ENCODER``, e.g. smp:unet/tu-resnet18, or ``monai:NAME``, e.g. monai:segresnet.
        network_argument: of the network's constructor, over those that follow from its name, e.g.
            decoder_channels=64,32,16,16,16.
        weights: local safetensors, state dict or backbone folder of ``pretrain`` to start from; the encoder of a
            segmentation starts from a classifier's.
        structure: name of what the study's masks show; it makes the network one that answers for every pixel.
        image_size: network input in pixels.
        colour: of the images; without it, that of the study's first training image.
        balanced: weight the loss of a classification by inverse class frequency.
        label_loss: loss against the labels; without it ``cross-entropy``, of a segmentation ``dice-ce``.
        licence: of the weights; every student inherits it.
        intended_use: what the publisher of the weights says they are for.
        dicom: rules for DICOM input, which every student and bundle inherits.
        stain: file of 'slide fit-stain': the stain that images are normalised to, likewise.
        columns: file of what the network is given beside the image (age, sex …), see 'study columns'.
        fusion: with ``columns``: how they join the image's embedding, ``concatenation`` or ``film``.
        training: how.
    """

    folder: Annotated[str, RECIPE_ONLY] = ""
    model: Annotated[str, ARGUMENT] = ""
    network_argument: dict[str, str] = {}
    weights: str = ""
    structure: tuple[str, ...] = ()
    image_size: Annotated[int, IMAGE_SIZE] = 224
    colour: Colour | None = None
    balanced: bool = True
    label_loss: LabelLoss | None = None
    licence: str = ""
    intended_use: str = ""
    dicom: Annotated[DicomRules, RECIPE_ONLY] = DicomRules()
    stain: str = ""
    columns: str = ""
    fusion: FusionMethod = "concatenation"
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        check(self)
        if bool(self.folder) == bool(self.model):
            raise InputError("a teacher is either a model folder ('folder') or a network ('model'); give one of them")
        if self.folder and self.columns:
            raise InputError("a model folder has its columns already; leave 'columns' out, or give a network ('model')")
        _check_fusion(self.columns, self.fusion)


class DistillStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A student and how it learns.

    Attributes:
        student: timm name, model folder (e.g. of ``prune``), ``scaled:width=0.5,depth=0.5`` (a copy of the teacher), or
            ``auto``: the largest that keeps to a latency; of a segmentation ``smp:DECODER/ENCODER`` or ``monai:NAME``.
        network_argument: of the student's constructor, over those that follow from its name, e.g.
            decoder_channels=64,32,16,16,16.
        weights: local safetensors, state dict or backbone folder of ``pretrain`` to start from; the encoder of a
            segmentation starts from a classifier's.
        structure: name of what the study's masks show, where neither its columns nor the teacher say it.
        image_size: student's input in pixels; 0 is the teacher's.
        max_latency_ms: with student ``auto``: latency of one image.
        target: with student ``auto``: where it will run, e.g. ``openvino:cpu:int8:2``.
        more: another study, learned from without its labels.
        columns: file of what the student is given beside the image, whatever the teacher is, see 'study columns'.
        fusion: with ``columns``: how they join the image's embedding, ``concatenation`` or ``film``.
        training: how.
        distillation: from what.
    """

    student: str
    network_argument: dict[str, str] = {}
    weights: str = ""
    structure: tuple[str, ...] = ()
    image_size: int = 0
    max_latency_ms: Annotated[float, Meta(ge=0, extra={"unit": "ms"})] = 0.0
    target: Annotated[str, TARGETS] = "openvino:cpu"
    more: tuple[str, ...] = ()
    columns: str = ""
    fusion: FusionMethod = "concatenation"
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=2e-3, patience=10)
    distillation: Distillation = Distillation()

    def __post_init__(self) -> None:
        check(self)
        _check_fusion(self.columns, self.fusion)


def _check_fusion(columns: str, fusion: FusionMethod) -> None:
    if fusion != "concatenation" and not columns:
        raise InputError(f"fusion {fusion!r} joins columns, and none are given; give --columns, or leave --fusion out")


class ExportStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bundle says of itself, and the rule of its operating points.

    Attributes:
        rule: of the operating points, on validation cases: ``youden``, ``sensitivity>=0.95``, ``specificity>=0.90`` or
            ``false-alarm-rate<=0.05``; without it ``youden``, of an anomaly score a false-alarm rate of 0.05. Three and
            more labels that exclude each other have none: the most probable is called, and a rule is refused.
        intended_use: what the bundle is for, in one sentence.
        dicom_modality: of the DICOM files that the device may predict on, e.g. ``DX``; without any, the model's own,
            else those of the study's DICOM files.
        dicom_sop_class: of the DICOM files that the device may predict on, a UID; without any, the model's own.
        dicom_view: view position of those files, e.g. ``PA``; without any, the model's own.
        dicom_body_part: of those files, e.g. ``CHEST``; without any, the model's own.
        dicom_laterality: of those files, ``R``, ``L``, ``U`` or ``B``; without any, the model's own.
        dicom_orientation: directions of rows and columns in the patient that those files are turned to, e.g. ``LF``; a
            file that does not say how it lies is refused. The study's DICOM files are turned likewise.
        dicom_mirror_to: side of the body, ``R`` or ``L``; files of the other side are mirrored to look like it, and one
            that does not say its side is refused. The study's DICOM files likewise.
        dicom_frames: what a file with several frames gets: the ``max`` or the ``mean`` of each finding's probability
            over all of them, or an answer for ``each``; by default the model's own rule, else it is refused.
        min_spacing_mm: least distance of pixels of those files in mm; a file that does not say it is refused.
        max_spacing_mm: greatest distance of pixels of those files in mm; a file that does not say it is refused.
        min_side_px: shorter side that an image must have; by default the model's own.
        image_colour: kind of images that the model is for, ``grey`` or ``colour``; ``study`` is the model's own rule,
            else what the study's images show; ``any`` states nothing, and no image is flagged.
        other_colour: what the device does with an image of the other kind: ``flag`` its prediction, or ``refuse`` it.
        tile_overlap: share of a side that neighbouring tiles have in common, where the input of a segmentation slides
            over the image at the image's own size; without it, the image is resized to the input.
        tile_blending: how tiles that overlap are joined, ``gaussian`` or ``constant``.
        tile_mm_per_px: distance of pixels that images are brought to before they are cut into tiles.
        false_refusal_rate: share of images like the validation cases that the device may call not reliable, so as to
            tell those that are unlike the training cases; 0 stores nothing of it.
        heat_map: give the network maps of where a finding comes from as a further output (class activation maps; of a
            ViT's class token those of its last attention), so that the device shows where it looked at no run more; it
            is said where it has none. Off, variants are as they were.
    """

    rule: str = ""
    intended_use: str = NOT_FOR_CLINICAL_USE
    dicom_modality: tuple[str, ...] = ()
    dicom_sop_class: tuple[str, ...] = ()
    dicom_view: tuple[str, ...] = ()
    dicom_body_part: tuple[str, ...] = ()
    dicom_laterality: tuple[str, ...] = ()
    dicom_orientation: str = ""
    dicom_mirror_to: Side | None = None
    dicom_frames: FrameAggregation | None = None
    min_spacing_mm: Annotated[float, Meta(gt=0, le=100)] | None = None
    max_spacing_mm: Annotated[float, Meta(gt=0, le=100)] | None = None
    min_side_px: Annotated[int, Meta(ge=1, le=65535)] | None = None
    image_colour: Literal["study", "grey", "colour", "any"] = "study"
    other_colour: Literal["flag", "refuse"] = "flag"
    tile_overlap: Annotated[float, Meta(ge=0, le=MOST_OVERLAP)] | None = None
    tile_blending: Blending = "gaussian"
    tile_mm_per_px: Annotated[float, Meta(gt=0, le=100)] | None = None
    false_refusal_rate: Annotated[float, Meta(ge=0, le=0.5)] = 0.01
    heat_map: bool = False

    def __post_init__(self) -> None:
        if self.rule:
            parse_rule(self.rule)
        if self.tile_overlap is None and (self.tile_blending != "gaussian" or self.tile_mm_per_px is not None):
            raise InputError("tile_blending and tile_mm_per_px go with tile_overlap; give it, e.g. 0.25")
        if self.dicom_orientation:
            DicomRules(orientation=self.dicom_orientation)  # says what is wrong with it
        for name, tag, example in (
            ("dicom_modality", "(0008,0060)", "DX, CR or MG"),
            ("dicom_view", "(0018,5101)", "PA or AP"),
            ("dicom_body_part", "(0018,0015)", "CHEST"),
            ("dicom_laterality", "(0020,0062)", "L or R"),
        ):
            wrong = [value for value in getattr(self, name) if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", value)]
            if wrong:
                raise InputError(f"{name} is {wrong[0]!r}; write a code of {tag} such as {example}")
        wrong = [uid for uid in self.dicom_sop_class if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", uid) or len(uid) > 64]
        if wrong:
            raise InputError(f"dicom_sop_class is {wrong[0]!r}; write a UID such as 1.2.840.10008.5.1.4.1.1.1.1 (DX)")


class BenchStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to measure, and what else beside the bundle.

    Attributes:
        plan: rounds, threads, warm-up.
        targets: measure only what begins with one of these, e.g. ``torch:cuda:fp16`` or ``onnxruntime:cuda:fp32``;
            without any, all that this machine can run. ``torch:cpu`` alone leaves the teacher's rows in other engines
            out.
        external_models: ONNX files or bundles beside the bundle, evaluated and measured, never judged; #logits,
            #softmax or #sigmoid behind an ONNX file says what it gives, where its graph does not prove it.
        baseline: an earlier bundle, to see whether this one became slower.
        pairs: interleaved pairs of processes for that.
        scenarios: MLPerf's loads to put on teacher and variants.
        harness: what drives the scenarios; ``plain`` needs nothing installed.
        load: how long.
        batch_sweep: time 1 to 64 images at once as well, on everything whose batch is free.
        cache: folder where prepared images are kept between runs; empty keeps none, in a recipe those of the report.
    """

    plan: Plan = Plan()
    targets: Annotated[tuple[str, ...], TARGETS] = ()
    external_models: Annotated[tuple[str, ...], Meta(extra={"option": "against"})] = ()
    baseline: Annotated[str, Meta(extra={"option": "baseline-bundle"})] = ""
    pairs: Annotated[int, Meta(ge=10)] = 10
    scenarios: Annotated[tuple[ScenarioName, ...], Meta(extra={"option": "scenario"})] = ()
    harness: Harness = "loadgen"
    load: LoadPlan = LoadPlan()
    batch_sweep: bool = False
    cache: str = ""

    def __post_init__(self) -> None:
        check(self)
