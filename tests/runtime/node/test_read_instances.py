"""An image becomes results or goes to quarantine with a reason, whatever it is; nothing is lost and nobody named."""

from __future__ import annotations

import io
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import node_scene
import pytest
from running_node import until

from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.node.audit import Audit, verify
from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.open_engine import open_engine
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.read_instances import Reader, same_pixels
from medfm_compress.runtime.node.spool.overview import SpoolView
from medfm_compress.runtime.node.spool.spool import Spool
from tests.helpers import tiny_columns

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
Make = Callable[..., "Scene"]


class Scene:
    def __init__(self, folder: Path, opener: Any = open_engine, **changes: Any) -> None:
        self.config = node_scene.config(folder, **changes)
        self.folder = Path(self.config.folder)
        self.folder.mkdir(exist_ok=True)
        self.spool = Spool(self.folder / "spool", self.config.spool)
        self.audit = Audit(self.folder, Marks.of_folder(self.folder))
        self.metrics = Metrics()
        self.reader = Reader(
            self.config,
            self.spool,
            audit=self.audit,
            metrics=self.metrics,
            progress=Progress(),
            opener=opener,
        )

    def read(self, *images: bytes, **arrival: Any) -> list[str]:
        """Accept and read; how many objects or which reason each one has got."""
        ids = [node_scene.accept(self.spool, image, **arrival) for image in images]
        while (claimed := self.spool.claim()) is not None:
            self.reader.read(claimed)
        return [self.outcome(number) for number in ids]

    def outcome(self, number: int) -> str:
        instance = self.spool.instance(number)
        assert instance is not None
        return instance.reason_code or instance.state

    def close(self) -> None:
        self.spool.close()
        self.audit.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    scenes: list[Scene] = []

    def build(**arguments: Any) -> Scene:
        scenes.append(Scene(tmp_path, **arguments))
        return scenes[-1]

    yield build
    for scene in scenes:
        scene.close()


def test_an_image_becomes_a_report_that_refers_to_it(make: Make) -> None:
    from pydicom import dcmread

    scene, image = make(), node_scene.image()
    assert scene.read(image) == ["read"]
    (delivery,) = scene.spool.due_deliveries("archive", 2e9, 10)
    report = dcmread(delivery.path)
    assert report.PatientID == node_scene.PATIENT_ID and report.Modality == "SR"
    referenced = (
        report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    )
    assert referenced.ReferencedSOPInstanceUID == node_scene.uid_of(image)
    assert scene.metrics.value("read_total", outcome="read") == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"PatientID": ""}, "no-patient-id"),
        ({"PatientID": "   "}, "no-patient-id"),
        ({"PatientID": None}, "no-patient-id"),
        ({"SpecificCharacterSet": "ISO_IR 999"}, "character-set"),
        ({"StudyInstanceUID": ""}, "no-study"),
        ({"Modality": "CR", "NumberOfFrames": "3"}, "image-refused"),
        ({"PixelData": b"\0\0"}, "image-refused"),
    ],
)
def test_what_is_not_certain_goes_to_quarantine(make: Make, change: dict[str, Any], expected: str) -> None:
    scene = make()
    assert scene.read(node_scene.image(change=change), node_scene.image(1)) == [expected, "read"]
    assert scene.metrics.value("quarantined_total", reason=expected) == 1


@pytest.mark.parametrize(
    ("terms", "raw", "expected"),
    [
        (b"ISO_IR 192", "Müller^Ä".encode(), "read"),
        (b"ISO_IR 192", "Müller^Ä".encode("latin-1"), "character-set"),
        (b"ISO_IR 100", "Müller^Ä".encode("latin-1"), "read"),
        (b"", "Müller^Ä".encode("latin-1"), "character-set"),
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "read"),
        (b"", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "character-set"),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "read"),
    ],
)
def test_text_that_cannot_be_decoded(make: Make, terms: bytes, raw: bytes, expected: str) -> None:
    place = node_scene.PATIENT_NAME.encode()
    image = node_scene.image(change={"PatientName": "A" * 60, "SpecificCharacterSet": "X" * 16})
    padded = raw + b" " * (60 - len(raw))
    altered = image.replace(b"A" * 60, padded).replace(b"X" * 16, terms + b" " * (16 - len(terms)))
    assert altered != image and place not in altered
    scene = make()
    assert scene.read(altered) == [expected]


def test_a_study_that_changes_its_patient(make: Make) -> None:
    first = node_scene.image(1, study="s")
    second = node_scene.image(2, study="s", change={"PatientID": "OTHER"})
    issuer = node_scene.image(3, study="s", change={"IssuerOfPatientID": "ELSEWHERE"})
    assert make().read(first, second, node_scene.image(4, study="s"), issuer) == [
        "read",
        "other-patient",
        "read",
        "other-patient",
    ]


def test_a_patient_who_was_corrected_is_accepted_by_name_alone(make: Make) -> None:
    scene, corrected = make(), {"PatientID": "CORRECTED"}
    wrong, right, later = (node_scene.image(n, study="s", change=corrected if n > 1 else {}) for n in (1, 2, 3))
    assert scene.read(wrong, right) == ["read", "other-patient"]
    scene.spool.replay()
    assert scene.read() == [] and scene.outcome(2) == "other-patient"  # no replay changes whose study it is
    view = SpoolView(scene.spool.folder)
    assert view.accept_patient([2]) == 1
    view.close()
    assert scene.read(later) == ["read"] and scene.outcome(2) == "read"


def test_one_uid_of_two_images(make: Make) -> None:
    scene, image = make(), node_scene.image(1)
    other = node_scene.image(2, change={"SOPInstanceUID": node_scene.uid_of(image)})
    same = node_scene.image(1, change={"StationName": "ANOTHER"})
    assert scene.read(image, other, same) == ["read", "same-uid", "read"]
    assert len(scene.spool.due_deliveries("archive", 2e9, 10)) == 1
    assert scene.metrics.value("read_total", outcome="repeated") == 1


def test_a_corrected_image_is_read_after_the_first_went_to_quarantine(make: Make) -> None:
    scene = make()
    wrong = node_scene.image(1, change={"PatientID": ""})
    assert scene.read(wrong, node_scene.image(1)) == ["no-patient-id", "read"]
    assert len(scene.spool.due_deliveries("archive", 2e9, 10)) == 1


def test_another_uid_than_announced(make: Make) -> None:
    assert make().read(node_scene.image(), sop_instance_uid="1.2.3") == ["uid-mismatch"]


def test_no_dicom_at_all(make: Make) -> None:
    scene, image = make(), node_scene.image()
    assert scene.read(image[:400] + b"\xff" * 3000) in (["header-unreadable"], ["uid-mismatch"])


def test_an_image_without_patient_id_may_be_accepted(make: Make) -> None:
    scene = make(spool=SpoolConfig(min_free_gb=0, without_patient_id="accept"))
    assert scene.read(node_scene.image(change={"PatientID": ""})) == ["read"]


class Failing:
    """An engine that raises; then a real one."""

    def __init__(self, error: BaseException, times: int = 10**9) -> None:
        self.error, self.times = error, times

    def __call__(self, config: Any) -> Any:
        engine = open_engine(config)
        real = engine.predict

        def predict(*arguments: Any, **options: Any) -> Any:
            if self.times > 0:
                self.times -= 1
                raise self.error
            return real(*arguments, **options)

        engine.predict = predict  # type: ignore[method-assign]
        return engine


@pytest.mark.parametrize("error", [RuntimeError("Zzyzx"), MemoryError(), RecursionError(), KeyError("PatientID")])
def test_an_error_that_nobody_expected(make: Make, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    scene = make(opener=Failing(error, 1))
    assert scene.read(node_scene.image(), node_scene.image(1)) == ["internal-error", "read"]
    reasons = [entry.reason for entry in scene.spool.quarantined()]
    assert type(error).__name__ in reasons[0] and "Zzyzx" not in reasons[0]


def test_an_engine_that_may_not_run_takes_no_image_down(make: Make) -> None:
    opener = Failing(BundleRefused("goldens give another result"), 1)
    scene = make(opener=opener)
    number = node_scene.accept(scene.spool, node_scene.image())
    claimed = scene.spool.claim()
    assert claimed is not None
    scene.reader.read(claimed)
    assert scene.outcome(number) == "waiting"
    assert "does not read" in scene.reader.fault
    assert scene.metrics.value("engine_ready") == 0
    assert scene.reader._reopen() and not scene.reader.fault
    claimed = scene.spool.claim()
    assert claimed is not None and claimed.attempts == 1
    scene.reader.read(claimed)
    assert scene.outcome(number) == "read"


def test_an_engine_that_always_fails_at_one_image_reads_the_others(make: Make) -> None:
    scene = make(opener=Failing(InputError("its folder cannot be used"), 4))
    number = node_scene.accept(scene.spool, node_scene.image())
    for _ in range(scene.config.spool.attempts + 1):
        assert scene.outcome(number) == "waiting"
        claimed = scene.spool.claim()
        assert claimed is not None and claimed.attempts == 1
        scene.reader.read(claimed)
        assert scene.reader._reopen()
    assert scene.outcome(number) == "engine-fails"
    assert scene.read(node_scene.image(1)) == ["read"]


def test_a_device_folder_that_is_damaged_takes_no_image_down(make: Make, tmp_path: Path) -> None:
    from medfm_compress.runtime.device.folder import DeviceFolder
    from medfm_compress.runtime.node.config import EngineConfig

    node_scene.config(tmp_path)
    device = DeviceFolder(tmp_path / "device")
    device.install(tmp_path / "tiny.medfm")
    device.activate()
    scene = make(engine=EngineConfig(device=str(tmp_path / "device"), threads=1))
    for path in (tmp_path / "device").glob("state-*.json"):
        path.write_bytes(b"damaged")
    number = node_scene.accept(scene.spool, node_scene.image())
    claimed = scene.spool.claim()
    assert claimed is not None
    scene.reader.read(claimed)
    assert scene.outcome(number) == "waiting" and scene.reader.fault


def test_a_disk_without_room_takes_no_image_down(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make()
    number = node_scene.accept(scene.spool, node_scene.image())
    monkeypatch.setattr("medfm_compress.runtime.node.read_instances._AGAIN_S", 0.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(scene.spool, "finish", full)
        claimed = scene.spool.claim()
        assert claimed is not None
        scene.reader.read(claimed)
    assert scene.outcome(number) == "waiting"


def test_a_device_folder_is_followed(make: Make, tmp_path: Path) -> None:
    from medfm_compress.runtime.device.folder import DeviceFolder
    from medfm_compress.runtime.node.config import EngineConfig

    node_scene.config(tmp_path)  # makes the bundle
    device = DeviceFolder(tmp_path / "device")
    device.install(tmp_path / "tiny.medfm")
    device.activate()
    scene = make(engine=EngineConfig(device=str(tmp_path / "device"), threads=1))
    assert scene.read(node_scene.image()) == ["read"]
    trial = device.state.trial
    assert trial is not None and trial.predicted == 1


def test_nothing_of_the_patient_is_in_audit_metrics_or_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    scene = make()
    images = [node_scene.image(change={"PatientID": ""}), node_scene.image(1)]
    scene.read(*images)
    scene.close()
    text = scene.metrics.text() + caplog.text
    text += "".join(path.read_text() for path in (scene.folder / "audit").iterdir())
    for word in (*node_scene.PATIENT_NAME.split("^"), node_scene.PATIENT_ID, *map(node_scene.uid_of, images)):
        assert word not in text
    assert verify(scene.folder).head.number >= 2


def test_pixels_are_compared_and_not_bytes() -> None:
    from pydicom import dcmread

    data = node_scene.image()
    dataset = dcmread(io.BytesIO(data))
    dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    assert same_pixels(data, file.getvalue())
    assert not same_pixels(data, node_scene.image(1))
    assert same_pixels(b"none", b"none") and not same_pixels(b"none", b"other")


def test_what_a_network_reads_beside_the_pixels_is_compared_too() -> None:
    data, older = node_scene.image(), node_scene.image(change={"PatientAge": "061Y"})
    assert same_pixels(data, older)
    assert not same_pixels(data, older, ["PatientAge"]) and same_pixels(data, data, ["PatientAge"])


def test_columns_are_read_from_the_image_alone(make: Make, tmp_path: Path) -> None:
    tiny_columns.bundle(tmp_path / "tiny.medfm")
    scene = make()
    with_age = node_scene.image(1, change={"ViewPosition": "AP"})
    without = node_scene.image(2, change={"ViewPosition": "AP", "PatientAge": None})
    unborn = node_scene.image(3, change={"ViewPosition": "AP", "PatientAge": "000Y"})
    assert scene.read(with_age, without, unborn) == ["read", "image-refused", "image-refused"]


def test_a_bundle_whose_column_no_image_has_is_not_opened(tmp_path: Path) -> None:
    age = msgspec.structs.replace(tiny_columns.AGE, dicom="")
    tiny_columns.bundle(tmp_path / "tiny.medfm", columns=(age, *tiny_columns.COLUMNS[1:]))
    with pytest.raises(InputError, match="no answer without age, which no DICOM attribute has"):
        open_engine(node_scene.config(tmp_path).engine)


def test_a_spool_that_cannot_be_written_is_a_fault_until_it_can(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfm_compress.runtime.node.read_instances._AGAIN_S", 0.05)
    scene = make()
    fail, tries = [True], []
    claim = scene.spool.claim

    def broken() -> Any:
        tries.append(1)
        if fail[0]:
            raise sqlite3.DatabaseError("database disk image is malformed")
        return claim()

    scene.spool.claim = broken  # type: ignore[method-assign]
    scene.reader.start()
    until(lambda: len(tries) > 3)
    assert "malformed" in scene.reader.spool_fault
    assert caplog.text.count("the spool cannot be written") == 1
    fail[0] = False
    until(lambda: not scene.reader.spool_fault)
    assert scene.reader.stop(5)


_OTHER_PATIENT = b"\x10\x00\x20\x00LO\x06\x00OTHER "


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("place", ["before", "after", "end"])
def test_an_image_that_names_two_patients_goes_to_quarantine(make: Make, place: str, deflated: bool) -> None:
    scene, image = make(), node_scene.image()
    first = image.index(b"\x10\x00\x20\x00LO")
    behind = first + 8 + int.from_bytes(image[first + 6 : first + 8], "little")
    at = {"before": first, "after": behind, "end": len(image)}[place]
    twice = image[:at] + _OTHER_PATIENT + image[at:]
    if deflated:
        image, twice = (_deflated(data) for data in (image, twice))
    uid, syntax = node_scene.uid_of(image), DEFLATED if deflated else EXPLICIT
    assert scene.read(twice, sop_instance_uid=uid, transfer_syntax_uid=syntax) == ["identity-twice"]
    assert scene.read(image, sop_instance_uid=uid, transfer_syntax_uid=syntax) == ["read"]
    assert scene.read(node_scene.image(1) + b"\0" * 100_001) == ["read"]


def _deflated(data: bytes) -> bytes:
    meta = 132 + 12 + int.from_bytes(data[140:144], "little")
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = data[:meta].replace(EXPLICIT.encode() + b"\0", DEFLATED.encode())
    length = int.from_bytes(head[140:144], "little") + len(head) - meta
    place = head.index(b"\x02\x00\x10\x00UI") + 6
    head = head[:140] + length.to_bytes(4, "little") + head[144:place] + (22).to_bytes(2, "little") + head[place + 2 :]
    return head + squeezer.compress(data[meta:]) + squeezer.flush()


def test_an_attribute_of_no_value_representation_is_a_fault_of_the_image(make: Make) -> None:
    image = node_scene.image()
    place = image.index(b"\x08\x00\x20\x00DA\x08\0") + 4
    assert make().read(image[:place] + b"D@\0\0" + image[place + 4 + 8 :]) == ["image-refused"]


@pytest.mark.parametrize(
    ("tag", "expected"), [(b"\x20\x00\x10\x00SH", "image-refused"), (b"\x08\x00\x30\x10LO", "read")]
)
def test_text_that_is_said_to_be_bytes_is_no_error_of_the_node(make: Make, tag: bytes, expected: str) -> None:
    image = node_scene.image(change={"StudyID": "S1", "StudyDescription": "chest"})
    place = image.index(tag)
    length = int.from_bytes(image[place + 6 : place + 8], "little")
    bytes_instead = tag[:4] + b"OB\0\0" + length.to_bytes(4, "little")
    assert make().read(image[:place] + bytes_instead + image[place + 8 :]) == [expected]
