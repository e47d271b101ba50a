"""`Engine`: open a bundle once, predict many; no result at all rather than a wrong one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime import variant_selection as choice
from medfm_compress.runtime.answers.answer import Network
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import NEAREST, Manifest
from medfm_compress.runtime.columns import Column, Values
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused, refusing
from medfm_compress.runtime.fill_columns import fill_columns, keywords_of
from medfm_compress.runtime.heap import release_freed_memory
from medfm_compress.runtime.meanwhile import Meanwhile
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, with_columns
from medfm_compress.runtime.opening import (
    check_columns_of,
    check_names,
    choose_variant,
    opened,
    prepare_beside,
    qualify,
    trust_flags,
)
from medfm_compress.runtime.prediction import NetworkInput, Prediction
from medfm_compress.runtime.sessions.protocol import Session, SessionInfo
from medfm_compress.runtime.sessions.table import BACKENDS, open_variant
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.trust.store import TrustStore, find_store

if TYPE_CHECKING:
    import pydicom

    from medfm_compress.runtime.class_activation import ClassActivation
    from medfm_compress.runtime.images.pixels import Pixels

Atypical = Literal["withhold", "flag"]
UNVERIFIED_FLAG = "unverified-model"
NOT_RELIABLE_FLAG = "not-reliable"
TRUST_EVERY_S = 30.0
"""A trust store is asked again before the first prediction that comes so much later: a key may have been revoked."""

_log = logging.getLogger("medfm_compress.runtime")


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
        self.bundle = opened(bundle, find_store(trust), allow_unsigned)
        self.variant, read = choose_variant(self.bundle, backend, unverified, reads_files=cache_dir is None)
        self.task: Task = self.manifest.task_of(self.variant)
        self.verified = not choice.verdict_incompatibility(self.bundle, self.variant)
        if not self.verified:
            _log.warning(
                "variant %s has no passing verdict; used all the same, as unverified was asked for", self.variant.name
            )
        cache = None if cache_dir is None else str(cache_dir)
        session = open_variant(self.bundle, self.variant, threads or usable_cores(), cache, read)
        check_names(session, self.manifest)
        check_columns_of(self.bundle)
        beside = Meanwhile(partial(prepare_beside, self.bundle, self.variant))
        self.golden_error = qualify(self.bundle, self.variant, session)
        self._judge, self._nearest = beside.result()
        self._standing_flags = (
            *(() if self.verified else (UNVERIFIED_FLAG,)),
            *trust_flags(self.bundle, self.variant),
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
            BundleRefused, TrustRefused: the trust store does not trust the bundle any more (see `check_trust`), or the
                network gives outputs of other shapes than the manifest says.
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

            frames = self._frames(source, given, withholds)
            prediction, seen = joined(frames, rules.frame_aggregation, self.task)
            return msgspec.structs.replace(prediction, elapsed_ms=(time.perf_counter() - start) * 1e3), seen
        pixels = read_image(source, rules, keywords_of(self.columns))
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
        yield from self._frames(source, columns or {}, atypical == "withhold")

    def _frames(
        self, source: str | Path | bytes | pydicom.Dataset | NDArray[Any], given: Values, withholds: bool
    ) -> Iterator[tuple[Prediction, NetworkInput]]:
        from medfm_compress.runtime.read_image import read_frames

        start = time.perf_counter()
        rules, keywords = self.manifest.image_spec.dicom, keywords_of(self.columns)
        for number, pixels in enumerate(read_frames(source, rules, keywords), 1):
            prediction, seen = self._predict(pixels, given, start, withholds=withholds, keep_probabilities=False)
            yield msgspec.structs.replace(prediction, frame=number), seen
            start = time.perf_counter()

    def _predict(
        self, pixels: Pixels, known: Values, start: float, *, withholds: bool, keep_probabilities: bool
    ) -> tuple[Prediction, NetworkInput]:
        from medfm_compress.runtime.answers.table import ask_of
        from medfm_compress.runtime.colour_kind import colour_flags
        from medfm_compress.runtime.dicom.rules import kind_flags

        spec = self.manifest.image_spec
        filled = fill_columns(self.columns, known, pixels.attributes)

        def run(tensor: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
            return self._run(with_columns(tensor, filled.inputs))

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
                *filled.flags,
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
            given=known,
        )
        return prediction, seen

    def inputs_of(self, source: str | Path | bytes | pydicom.Dataset, columns: Values | None = None) -> NetworkInputs:
        """What the network is given for an image, of several frames that in which most was found; see `predict`."""
        return self.predict_with_input(source, columns=columns, atypical="flag")[1].inputs

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
            return self.manifest.with_shapes_checked(session.run(fed))

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
