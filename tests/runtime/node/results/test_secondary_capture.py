"""The heat map: of the engine that predicted, hot where evidence is, valid, marked, and of the same study."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from node_results import CONFIG, PREDICTION, WITHHELD, heat, made, read, synthetic

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.heat_map import finding_to_explain, heat_map, overlay
from medfm_compress.runtime.occlusion import occlusion_map


@pytest.mark.parametrize("site", [0, 1])
def test_dciodvfy_finds_no_error(site, complaints) -> None:
    assert complaints(made(synthetic(site), heat_map=heat())["sc"]) == []


def test_it_is_a_derived_picture_of_the_image() -> None:
    ds, source = read(made(synthetic(), heat_map=heat())["sc"]), synthetic()
    assert ds.ImageType[:2] == ["DERIVED", "SECONDARY"] and ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    (reference,) = ds.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert (ds.StudyInstanceUID, ds.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert ds.LossyImageCompression == "01"  # the image was
    assert "not for clinical use" in ds.SeriesDescription and "not for clinical use" in ds.ImageComments


def test_pixels_are_the_overlay_with_words_below_it() -> None:
    pixels = read(made(synthetic(), heat_map=heat())["sc"]).pixel_array
    side = 512
    assert pixels.shape == (pixels.shape[0], side, 3) and pixels.dtype == np.uint8
    hottest = pixels[20 * 16 + 8, 8 * 16 + 8].astype(int)
    assert hottest[0] > 140 > hottest[2] and tuple(pixels[8, -8]) == (100, 100, 100)
    band = pixels[side:]
    assert band.max() == 255 and band[:3].max() == 0  # words, with a margin
    clinical = read(made(synthetic(), config=replace(CONFIG, status="clinical"), heat_map=heat())["sc"])
    assert clinical.Rows < pixels.shape[0]  # the line that marks research is not there


def test_evidence_against_a_finding_is_not_shown_as_evidence_for_it() -> None:
    shown = heat()._replace(evidence=-np.ones((32, 32), np.float32))
    assert np.array_equal(overlay(shown), shown.picture)


@pytest.mark.parametrize("sides", [(5, 7), (224, 224), (600, 300)])
def test_pictures_of_any_size_are_valid(sides, complaints) -> None:
    picture = heat()._replace(
        evidence=np.random.default_rng(0).normal(size=sides).astype(np.float32), picture=np.zeros((*sides, 3), np.uint8)
    )
    item = made(synthetic(), heat_map=picture)["sc"]
    assert complaints(item) == [] and read(item).Columns % sides[1] == 0


def test_a_finding_beyond_the_font_is_named_by_its_code(complaints) -> None:
    item = made(synthetic(), heat_map=heat()._replace(finding="Erguß"))["sc"]
    assert complaints(item) == [] and "Erguß" in read(item).DerivationDescription


def test_no_picture_without_a_finding() -> None:
    assert set(made(synthetic(), WITHHELD, heat_map=heat())) == {"sr", "fhir"}


def test_the_finding_that_matters_most_is_explained() -> None:
    assert finding_to_explain(PREDICTION) == "Pneumonia"
    assert finding_to_explain(replace(PREDICTION, findings=dict.fromkeys(PREDICTION.findings))) == "Pneumonia"
    called = {"Pneumonia": False, "Erguß": True, "nodule \\ mass": None}
    assert finding_to_explain(replace(PREDICTION, findings=called)) == "Erguß"
    assert finding_to_explain(WITHHELD) is None


def test_the_map_is_the_occlusion_of_the_engine_itself(tiny, tmp_path) -> None:
    path = tmp_path / "tiny.medfm"
    tiny.bundle(path)
    with Engine(path, unverified=True, threads=1) as engine:
        prediction, given = engine.predict_with_input(tiny.image())
        made_map = heat_map(engine, given.tensor, prediction)
        assert made_map is not None and made_map.finding == "opacity"
        expected = occlusion_map(engine.logits, given.tensor, engine.task, "opacity")
        np.testing.assert_array_equal(made_map.evidence, expected)
        assert made_map.picture.shape == (32, 32, 3) and made_map.picture.dtype == np.uint8
        seen = np.clip(given.tensor[0, 0] * 0.25 + 0.5, 0, 1) * 255
        np.testing.assert_allclose(made_map.picture[..., 0], seen, atol=0.6)
        withheld = replace(prediction, probabilities={}, findings={})
        assert heat_map(engine, given.tensor, withheld) is None
