"""`Engine`: open a bundle once, predict many; no result at all rather than a wrong one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime import variant_selection as choice
from medfm_compress.runtime.answers.answer import Network
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import NEAREST, Manifest, Variant
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.cpu import read_cpu, usable_cores
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused, in_one_line, refusing
from medfm_compress.runtime.fill_columns import Values, fill_columns, keywords_of
from medfm_compress.runtime.heap import release_freed_memory
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, with_columns
from medfm_compress.runtime.segmentation.result import Segmentation
from medfm_compress.runtime.sessions.protocol import Session, SessionInfo
from medfm_compress.runtime.sessions.table import BACKENDS, open_variant
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.trust.store import TrustStore, find_store

if TYPE_CHECKING:
    import pydicom

    from medfm_compress.runtime.class_activation import ClassActivation
    from medfm_compress.runtime.images.pixels import Pixels
    from medfm_compress.runtime.nearest_cases import NearestCases
    from medfm_compress.runtime.typicality import TypicalityJudge

Atypical = Literal["withhold", "flag"]
UNVERIFIED_FLAG = "unverified-model"
NOT_RELIABLE_FLAG = "not-reliable"
UNSIGNED_FLAG = "unsigned-bundle"
CLOCK_FLAG = "clock-is-wrong"
TRUST_EVERY_S = 30.0
"""A trust store is asked again before the first prediction that comes so much later: a key may have been revoked."""
START_GOLDENS = 1
"""Golden cases replayed at the start: one already passes through every operator; ``inspect --verify`` replays all."""

_log = logging.getLogger("medfm_compress.runtime")


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network says of one image.

    Attributes:
        probabilities: finding → calibrated probability in [0, 1].
        findings: finding → called at its operating point or not; None where it has none.
        label: the most probable class of a multiclass task, else None.
        typicality: how usual the image is among those that the network was made for, in (0, 1], see `typicality`; None
            where the bundle does not tell.
        not_reliable: why no finding is given; then probabilities and findings are empty. Empty where one is.
        flags: quality remarks on the image, e.g. ``colour-image-for-grey-model``; ``not-reliable``;
            ``unverified-model`` where no passing verdict stands behind it, ``unsigned-bundle`` where a trust store was
            asked and no trusted builder stands behind the bundle, or no trusted approver behind its verdict,
            ``clock-is-wrong`` where the clock shows an earlier time than was certainly reached.
        variant: which variant of the bundle answered.
        model_digest: of the bundle.
        intended_use: as the bundle's maker declared it.
        elapsed_ms: from the source to this answer.
        frame: which frame of several it is of, counted from 1; None where it is of the image.
        frames: of how many frames it is, where it joins the answers for several.
        segmentation: of a segmentation, its label map and what follows from it; None where none is given. Then a
            finding is called where the map shows it anywhere, and its probability is the highest of a pixel's.
        columns: of a model that takes columns, where each came from: ``argument``, the keyword of a DICOM attribute,
            ``imputed`` or ``missing``. Their values are not kept.
        is_score: of an anomaly: ``probabilities`` hold a score in [0, 1] that orders images, no probability of disease.
        anomaly_map: of an anomaly, where the bundle gives one: float32 ``[H, W]`` at the image's own size, the logit of
            the score at each place; NaN where the network did not see the image.
        nearest: of an anomaly, where the bundle gives them: SHA-256 of the files of the training cases that the image
            is most like, the most similar first.
    """

    probabilities: dict[str, float]
    findings: dict[str, bool | None]
    label: str | None
    flags: tuple[str, ...]
    variant: str
    model_digest: str
    intended_use: str
    elapsed_ms: float
    typicality: float | None = None
    not_reliable: str = ""
    segmentation: Segmentation | None = None
    columns: dict[str, str] = {}
    is_score: bool = False
    anomaly_map: NDArray[np.float32] | None = None
    nearest: tuple[str, ...] = ()
    frame: int | None = None
    frames: int | None = None

    def row(self) -> dict[str, Any]:
        """The prediction as JSON has it: no maps, and of what is of one kind of task alone nothing for the others."""
        row = {name: getattr(self, name) for name in self.__struct_fields__ if name not in _OF_ONE_KIND}
        row |= {name: value for name in ("columns", "frame", "frames") if (value := getattr(self, name))}
        if self.is_score:
            row = {"scores" if name == "probabilities" else name: value for name, value in row.items()}
            row |= {"nearest": self.nearest} if self.nearest else {}
        return row if self.segmentation is None else row | {"segmentation": self.segmentation.summary()}


_OF_ONE_KIND = frozenset({"segmentation", "columns", "is_score", "anomaly_map", "nearest", "frame", "frames"})


class NetworkInput(NamedTuple):
    """What the network was given for one image, and what it answered whatever was made of it.

    Attributes:
        tensor: ``[1, C, H, W]``, float32, normalised.
        spacing_mm: of the pixels before any resizing, where a DICOM file says it.
        examination: a mark that images of one DICOM study share, of no meaning outside this process.
        scores: finding → its probability, of an image that is not reliable as well.
        activation: class activation maps of the same run, or the anomaly map, where the bundle gives them.
        columns: column → float32 ``[1, width]``, what the network was given beside the tensor.
        given: columns as the caller gave them.
    """

    tensor: NDArray[np.float32]
    spacing_mm: float | None
    examination: bytes | None = None
    scores: Mapping[str, float] = MappingProxyType({})
    activation: ClassActivation | None = None
    columns: Mapping[str, NDArray[np.float32]] = MappingProxyType({})
    given: Values = MappingProxyType({})

    @property
    def inputs(self) -> NetworkInputs:
        """Image and columns together, as `Engine.logits` takes them."""
        return with_columns(self.tensor, self.columns)


class Engine:
    """A bundle, ready to predict; safe to use from several threads.

    The first variant in the bundle's order that a passing verdict covers and that this machine can run is opened, a
    golden case is replayed, and the choice is logged with what kept the ones before it from being used. Only the files
    of that variant are read and hashed.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        backend: str | None = None,
        threads: int | None = None,
        unverified: bool = False,
        cache_dir: str | Path | None = None,
        trust: str | Path | TrustStore | None = None,
        allow_unsigned: bool = False,
    ) -> None:
        """Open ``bundle``.

        Args:
            bundle: path of a ``.medfm`` file, or one already opened.
            backend: use only variants of this backend.
            threads: for one prediction; by default the physical cores this process may use.
            unverified: also use variants without a passing verdict; every prediction then carries a flag.
            cache_dir: where the backend may keep compiled models for a faster start (OpenVINO: about half the time;
                TensorRT: seconds to minutes):
                a folder of the user's own, made where it is missing, refused where others may write to it. It holds
                models only, nothing of an image; it may be emptied at any time. Without it nothing is kept.
            trust: folder of the keys that are trusted, or the store as opened; by default the one that
                ``MEDFM_TRUST_STORE`` names, or ``/etc/medfm-compress/trust`` where it exists. Without any no signature
                is asked for.
            allow_unsigned: also use a bundle that no trusted key signed; every prediction then carries a flag.

        Raises:
            BundleRefused: damaged or altered, no trusted key signed it, no variant may run here, or the golden case
                gives another result.
            TrustRefused: the trust store cannot be relied on.
            InputError: the file cannot be read, an option is unknown, or the cache folder cannot be used.
        """
        if backend is not None and backend not in BACKENDS:
            raise InputError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        self._trust, self._allow_unsigned, self._trusted_at = trust, allow_unsigned, time.monotonic()
        self.bundle = _opened(bundle, find_store(trust), allow_unsigned)
        self.variant = _choose(self.bundle, backend, unverified)
        self.task: Task = self.manifest.task_of(self.variant)
        self.verified = not choice.verdict_incompatibility(self.bundle, self.variant)
        if not self.verified:
            _log.warning(
                "variant %s has no passing verdict; used all the same, as unverified was asked for", self.variant.name
            )
        cache = None if cache_dir is None else str(cache_dir)
        session = open_variant(self.bundle, self.variant, threads or usable_cores(), cache)
        _check_names(session, self.manifest)
        _check_columns(self.bundle)
        self.golden_error = _qualify(self.bundle, self.variant, session)
        self._judge = typicality_judge(self.bundle, self.variant)
        self._nearest = nearest_cases(self.bundle)
        self._standing_flags = (
            *(() if self.verified else (UNVERIFIED_FLAG,)),
            *_trust_flags(self.bundle, self.variant),
        )
        self._session: Session | None = session
        self.info: SessionInfo = session.info
        self._workers = max(1, usable_cores() // self.info.threads)
        release_freed_memory()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the network takes beside the image; nothing of most."""
        return self.manifest.told

    @property
    def standing_flags(self) -> tuple[str, ...]:
        """What every prediction of this engine says, whatever the image: of verdict and signatures."""
        return self._standing_flags

    def predict(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
        keep_probabilities: bool = False,
    ) -> Prediction:
        """Predict for one image: a path or the bytes of a DICOM, PNG or JPEG file, a dataset, or an array.

        Args:
            source: the image.
            columns: of a model that takes columns, what is known of the patient, e.g. ``{"age": 63, "sex": "F"}``.
                What is not given is read from the DICOM attribute that the column names, where the file has it.
            atypical: what becomes of one that is unlike those the network was made for (see `typicality`): ``withhold``
                gives no finding and says why, ``flag`` gives findings and the flag ``not-reliable``.
            keep_probabilities: of a segmentation, also give the probability of every pixel.

        Raises:
            ImageRefused: the image is unreadable or not what the bundle was made for; or a column is missing where it
                may not be, out of its range, of no known category, or contradicts the file.
            Refused: the network's output, or a probability that follows from it, is not finite.
            BundleRefused, TrustRefused: the trust store does not trust the bundle any more; see `check_trust`.
            InputError: the engine is closed, the source is of no known kind, or the model has no such column.
        """
        return self.predict_with_input(
            source, columns=columns, atypical=atypical, keep_probabilities=keep_probabilities
        )[0]

    def predict_with_input(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
        keep_probabilities: bool = False,
    ) -> tuple[Prediction, NetworkInput]:
        """:func:`predict`, and what the network was given, for whoever watches it."""
        from medfm_compress.runtime.read_image import read_image

        if atypical not in ("withhold", "flag"):
            raise InputError(f"atypical is {atypical!r}; it must be 'withhold' or 'flag'")
        start = time.perf_counter()
        if time.monotonic() - self._trusted_at >= TRUST_EVERY_S:
            self.check_trust()
        rules, withholds, given = self.manifest.image_spec.dicom, atypical == "withhold", columns or {}
        if rules.frame_aggregation:
            from medfm_compress.runtime.answers.frames import joined

            prediction, seen = joined(self._frames(source, withholds, given), rules.frame_aggregation, self.task)
            return msgspec.structs.replace(prediction, elapsed_ms=(time.perf_counter() - start) * 1e3), seen
        pixels = read_image(source, rules, keywords_of(self.manifest.told))
        return self._predict(pixels, given, start, withholds=withholds, keep_probabilities=keep_probabilities)

    def predict_frames(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
    ) -> Iterator[Prediction]:
        """A prediction for each frame in its order; see `predict_frames_with_input`."""
        answers = self.predict_frames_with_input(source, columns=columns, atypical=atypical)
        return (prediction for prediction, _ in answers)

    def predict_frames_with_input(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
    ) -> Iterator[tuple[Prediction, NetworkInput]]:
        """A prediction for each frame in its order, of a bundle whose rule is to answer for ``each``; see `predict`.

        An image of one frame has one prediction. One frame is in memory at a time.

        Raises:
            InputError: the bundle has another rule.
            ImageRefused, Refused: as of `predict`, of the first frame that cannot be read.
        """
        if self.manifest.image_spec.dicom.frame_aggregation != "each":
            raise InputError("the bundle does not answer for each frame; use predict")
        if atypical not in ("withhold", "flag"):
            raise InputError(f"atypical is {atypical!r}; it must be 'withhold' or 'flag'")
        if time.monotonic() - self._trusted_at >= TRUST_EVERY_S:
            self.check_trust()
        yield from self._frames(source, atypical == "withhold", columns or {})

    def _frames(
        self, source: str | Path | bytes | pydicom.Dataset | NDArray[Any], withholds: bool, given: Values
    ) -> Iterator[tuple[Prediction, NetworkInput]]:
        from medfm_compress.runtime.read_image import read_frames

        start, keywords = time.perf_counter(), keywords_of(self.manifest.told)
        for number, pixels in enumerate(read_frames(source, self.manifest.image_spec.dicom, keywords), 1):
            prediction, seen = self._predict(pixels, given, start, withholds=withholds, keep_probabilities=False)
            yield msgspec.structs.replace(prediction, frame=number), seen
            start = time.perf_counter()

    def _predict(
        self, pixels: Pixels, given: Values, start: float, *, withholds: bool, keep_probabilities: bool
    ) -> tuple[Prediction, NetworkInput]:
        from medfm_compress.runtime.answers.table import ask_of
        from medfm_compress.runtime.colour_kind import colour_flags
        from medfm_compress.runtime.dicom.rules import kind_flags

        spec = self.manifest.image_spec
        filled = fill_columns(self.manifest.told, given, pixels.attributes)
        run = partial(self._run_beside, filled.inputs)
        network = Network(run, self._logits_of, self.task, spec, self._workers, keep_probabilities)
        answer = ask_of(self.task)(network, pixels)
        typicality, not_reliable = self._judged(answer.outputs, answer.tensor)
        is_given = not (not_reliable and withholds)
        prediction = Prediction(
            probabilities=answer.probabilities if is_given else {},
            findings=answer.findings if is_given else {},
            label=answer.label if is_given else None,
            segmentation=answer.segmentation if is_given else None,
            is_score=not self.task.gives_probabilities,
            anomaly_map=answer.anomaly_map if is_given else None,
            nearest=self._nearest_of(answer.outputs) if is_given else (),
            flags=(
                *pixels.flags,
                *kind_flags(pixels, spec.dicom),
                *colour_flags(pixels, spec),
                *answer.flags,
                *((NOT_RELIABLE_FLAG,) if not_reliable else ()),
                *self._standing_flags,
            ),
            typicality=typicality,
            not_reliable=not_reliable,
            variant=self.variant.name,
            model_digest=self.manifest.model_digest,
            intended_use=self.manifest.intended_use,
            elapsed_ms=(time.perf_counter() - start) * 1e3,
            columns=filled.sources,
        )
        seen = NetworkInput(
            answer.tensor,
            pixels.spacing_mm,
            pixels.examination,
            scores=answer.probabilities,
            activation=self._activation(answer.outputs),
            columns=filled.inputs,
            given=given,
        )
        return prediction, seen

    def inputs_of(self, source: str | Path | bytes | pydicom.Dataset, columns: Values | None = None) -> NetworkInputs:
        """What the network is given for an image that is not tiled; arguments and errors as of `predict`."""
        from medfm_compress.runtime.preprocess import preprocess
        from medfm_compress.runtime.read_image import read_image

        spec, told = self.manifest.image_spec, self.manifest.told
        pixels = read_image(source, spec.dicom, keywords_of(told))
        return with_columns(preprocess(pixels, spec), fill_columns(told, columns or {}, pixels.attributes).inputs)

    def logits(self, inputs: NetworkInputs) -> NDArray[np.float32]:
        """Raw logits ``[1, labels]``, or a map a structure, of one preprocessed image ``[1, C, H, W]``, float32.

        A model with columns takes them beside the image.

        Raises:
            Refused: an output that is not finite or has another shape.
            InputError: the engine is closed, or an input has another shape.
        """
        return self._logits_of(self._run(inputs))

    def activation(self, inputs: NetworkInputs) -> ClassActivation | None:
        """Class activation maps of one preprocessed image ``[1, C, H, W]``; None where the bundle gives none.

        Raises:
            Refused, InputError: as of `logits`.
        """
        return self._activation(self._run(inputs)) if self.manifest.place_map is not None else None

    def _activation(self, outputs: Mapping[str, NDArray[Any]]) -> ClassActivation | None:
        places = self.manifest.place_map
        if places is None:
            return None
        from medfm_compress.runtime.class_activation import read_activation

        return read_activation(outputs, places, self._logits_of(outputs))

    def _nearest_of(self, outputs: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
        """Hashes of the training cases that the network names; none where the bundle names none."""
        return () if self._nearest is None else self._nearest.named(outputs[NEAREST])

    def _run_beside(
        self, columns: Mapping[str, NDArray[np.float32]], tensor: NDArray[np.float32]
    ) -> Mapping[str, NDArray[Any]]:
        return self._run(with_columns(tensor, columns))

    def _run(self, inputs: NetworkInputs) -> Mapping[str, NDArray[Any]]:
        session = self._session
        if session is None:
            raise InputError("the engine is closed; open a new one")
        fed = feed([tensor.name for tensor in self.manifest.inputs], inputs)
        for tensor in self.manifest.inputs:
            if fed[tensor.name].shape != tensor.shape:
                what = "" if tensor.role == "image" else f" as {tensor.name}"
                raise InputError(f"the network takes {tensor.shape}{what}, got {fed[tensor.name].shape}")
        with refusing(Refused, "the network gives no result for this image"):
            return session.run(fed)

    def _logits_of(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        with refusing(Refused, "the network gives no result for this image"):
            logits = outputs[self.manifest.outputs[0].name]
            if logits.shape != self.manifest.outputs[0].shape or not np.isfinite(logits).all():
                raise Refused("the network's output for this image is not finite or misshapen; no result is given")
            return logits

    def _judged(self, outputs: Mapping[str, NDArray[Any]], tensor: NDArray[np.float32]) -> tuple[float | None, str]:
        """Typicality and why the image is not reliable; None and nothing where the bundle does not tell."""
        if self._judge is None:
            return None, ""
        features = self.manifest.outputs[1]
        values = np.asarray(outputs[features.name])
        if values.shape != features.shape or not np.isfinite(values).all():
            raise Refused("the network's features of this image are not finite or misshapen; no result is given")
        return self._judge.judge(values, tensor)

    def check_trust(self) -> None:
        """Ask the trust store that counts here again, as it is now.

        Raises:
            BundleRefused: a key was revoked or has expired, so that nobody trusted stands behind the bundle any more.
            TrustRefused: the store cannot be relied on.
        """
        store = find_store(self._trust)
        if store is not None:
            bundle = self.bundle.held_against(store, allow_unsigned=self._allow_unsigned)
            reason = choice.verdict_incompatibility(bundle, self.variant) if self.verified else ""
            if reason:
                raise BundleRefused(f"{bundle.path.name}: {reason}")
        self._trusted_at = time.monotonic()

    def replay_goldens(self) -> float:
        """Replay every golden case of the variant; the relative logit error.

        Raises:
            BundleRefused: it is above the variant's tolerance, or a decision is another.
            InputError: the engine is closed.
        """
        if self._session is None:
            raise InputError("the engine is closed; open a new one")
        return goldens.replay_goldens(self.bundle, self.variant, self._session)

    def close(self) -> None:
        """Release the session; predictions under way end normally. Closing twice is fine."""
        self._session = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(bundle: str | Path | Bundle, store: TrustStore | None, allow_unsigned: bool) -> Bundle:
    if not isinstance(bundle, Bundle):
        return Bundle.open(bundle, whole=False, trust=store, allow_unsigned=allow_unsigned)
    return bundle if store is None else bundle.held_against(store, allow_unsigned=allow_unsigned)


def _trust_flags(bundle: Bundle, variant: Variant) -> tuple[str, ...]:
    """What every prediction says of the signatures; nothing where no trust store was asked."""
    standing, verdict = bundle.standing, bundle.verdict(variant.name)
    if standing is None:
        return ()
    missing = standing.untrusted or (choice.unsigned_verdict(bundle, verdict) if verdict else "")
    if missing:
        _log.warning("%s is used although %s", bundle.path.name, missing)
    return (*((UNSIGNED_FLAG,) if missing else ()), *((CLOCK_FLAG,) if standing.clock_is_behind else ()))


def _choose(bundle: Bundle, backend: str | None, unverified: bool) -> Variant:
    passed_over: list[str] = []
    for variant, reason in choice.incompatibilities(bundle, choice.Machine(cpu=read_cpu()), backend, unverified):
        if not reason:
            _log.info("variant %s (%s) chosen; passed over: %s", variant.name, variant.target, passed_over or "none")
            return variant
        passed_over.append(f"{variant.name}: {in_one_line(reason)}")
    raise BundleRefused(f"{bundle.path.name} has no variant that may run here: " + "; ".join(passed_over))


def typicality_judge(bundle: Bundle, variant: Variant) -> TypicalityJudge | None:
    """What tells whether an image is usual; None where the bundle does not tell. BundleRefused where it is damaged."""
    if bundle.manifest.typicality is msgspec.UNSET:
        return None
    from medfm_compress.runtime.typicality import TypicalityJudge

    return TypicalityJudge(bundle, variant)


def nearest_cases(bundle: Bundle) -> NearestCases | None:
    """Hashes of the training cases that it names; None where it names none. BundleRefused where they are damaged."""
    if bundle.manifest.output(NEAREST) is None:
        return None
    from medfm_compress.runtime.nearest_cases import NearestCases

    return NearestCases(bundle)


def _qualify(bundle: Bundle, variant: Variant, session: Session) -> float:
    """Relative logit error on golden cases: on one, or on all of them for an engine that this machine compiled itself.

    Such an engine, if it fails, is forgotten: the next start builds another, which may pass.
    """
    if variant.device == "cpu":
        return goldens.replay_goldens(bundle, variant, session, START_GOLDENS)
    try:
        return goldens.replay_goldens(bundle, variant, session)
    except BundleRefused:
        compiled: Path | None = getattr(session, "compiled", None)
        if compiled is not None:
            compiled.unlink(missing_ok=True)
        raise


def _check_columns(bundle: Bundle) -> None:
    """What columns are read from must be what may be read, whoever made the bundle."""
    if not bundle.manifest.told:
        return
    from medfm_compress.runtime.dicom.attributes import check_attributes

    try:
        check_attributes(bundle.manifest.told)
    except InputError as exc:
        raise BundleRefused(f"{bundle.path.name}: {exc}") from exc


def _check_names(session: Session, manifest: Manifest) -> None:
    """The model file must have the tensors that the manifest says."""
    inputs, outputs = {t.name for t in manifest.inputs}, {t.name for t in manifest.outputs}
    if set(session.input_names) != inputs or set(session.output_names) != outputs:
        raise BundleRefused(
            f"the model has inputs {in_one_line(session.input_names)} and outputs {in_one_line(session.output_names)}; "
            f"its manifest says {in_one_line(sorted(inputs))} and {in_one_line(sorted(outputs))}"
        )
