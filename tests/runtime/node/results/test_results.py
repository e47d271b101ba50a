"""Which objects go where; and what making them costs at the start."""

from __future__ import annotations

import subprocess
import sys

from msgspec.structs import replace
from node_results import ARRIVED, CONFIG, PREDICTION, READ_BY, heat, synthetic

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.node.results.assessment import ReadBy
from medfm_compress.runtime.node.results.results import Results


def kinds(config=CONFIG, pacs=("archive",), fhir=("records",)):
    objects = Results(config, pacs=pacs, fhir=fhir).make_objects(
        synthetic(), PREDICTION, READ_BY, received_at=ARRIVED, heat_map=heat()
    )
    return {item.kind: item.destinations for item in objects}


def test_objects_go_to_those_that_take_them() -> None:
    assert kinds(pacs=("a", "b")) == {"sr": ("a", "b"), "sc": ("a", "b"), "fhir": ("records",)}
    assert kinds(pacs=()) == {"fhir": ("records",)}
    assert kinds(fhir=()) == {"sr": ("archive",), "sc": ("archive",)}
    assert kinds(replace(CONFIG, sr=False)) == {"sc": ("archive",), "fhir": ("records",)}


def test_an_object_is_what_its_record_says() -> None:
    from node_results import made, read

    for item in made(synthetic(), heat_map=heat()).values():
        if item.kind != "fhir":
            ds = read(item)
            assert (ds.SOPClassUID, ds.SOPInstanceUID) == (item.sop_class_uid, item.sop_instance_uid)
            assert ds.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
            assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1" and item.content[128:132] == b"DICM"


def test_an_engine_says_who_reads(tiny, tmp_path) -> None:
    path = tmp_path / "tiny.medfm"
    tiny.bundle(path)
    with Engine(path, unverified=True, threads=1) as engine:
        assert ReadBy.of(engine) == ReadBy(name="tiny", release=0, thresholds={"opacity": 0.5})


def test_libraries_are_imported_only_once_there_is_a_result_to_make() -> None:
    program = "import sys, medfm_compress.runtime.node.results.results; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydicom", "highdicom", "PIL", "pynetdicom"} & set(loaded)
