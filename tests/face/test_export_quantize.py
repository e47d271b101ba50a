"""Export and quantize as a user calls them, on a study and a model folder on disk."""

import csv
import json
import re
import subprocess

import msgspec
import numpy as np
import pytest
import tiny_study
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.cli.int8_summary import why_no_int8
from medfm_compress.cli.model_summary import describe_accepted
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import Model, create_module, save_model
from medfm_compress.data.dicom_header import modalities
from medfm_compress.data.open import open_study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.device_spec import with_colour_rule, with_dicom_kind, with_modalities
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ColourRule, DicomRules
from medfm_compress.step_settings import ExportStep
from medfm_compress.steps.studies import warn_of_modality


@pytest.fixture
def call(capsys):
    """Runs a command in this process, since PyTorch takes longer to load than it runs."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("face")
    study = tiny_study.make_study()
    (root / "study").mkdir()
    with (root / "study" / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "label"])
        for case in study.cases:
            Image.fromarray(study.source.read(case.image).values).save(root / "study" / f"{case.image}.png")
            rows.writerow([f"{case.image}.png", case.split, study.labels[case.target[0]]])
    architecture = Architecture(name="resnet10t", arguments={"in_chans": 1, "num_classes": 2})
    module = create_module(architecture)
    save_model(Model("tiny", module, tiny_study.SPEC, tiny_study.TASK, architecture, "Apache-2.0"), root / "model")
    return root


def test_export_then_quantize_by_command(call, folder):
    exported = call("export", folder / "model", "--study", folder / "study", "--out", folder / "a.medfm")
    assert exported.returncode == 0, exported.stderr
    assert "onnxruntime-cpu-fp32" in exported.stdout and "spot: threshold" in exported.stdout
    assert Bundle.open(folder / "a.medfm").manifest.provenance.teacher_licence == "Apache-2.0"
    done = call("quantize", folder / "a.medfm", "--study", folder / "study", "--out", folder / "b.medfm",
                "--samples", 16, "--time-budget", 0, "--no-nncf", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["calibration_cases"] == 16
    methods = {candidate["method"].removesuffix("+7-bit-weights") for candidate in answer["candidates"]}
    assert {"int8-minmax", "fp32"} <= methods  # 7 bits on a CPU without VNNI
    assert all(candidate["reason"] for candidate in answer["candidates"])
    assert all(candidate["variant"] for candidate in answer["candidates"])
    assert any(idle["method"] == "further candidates" for idle in answer["not_tried"])
    timed = [candidate for candidate in answer["candidates"] if candidate["speedup"] is not None]
    assert timed and all(candidate["p50_ms"] > 0 for candidate in timed)
    assert all(0 <= each["changed"] <= each["cases"] for each in answer["thresholds"])
    assert {each["variant"] for each in answer["thresholds"]} <= set(answer["variants"]) - {"onnxruntime-cpu-fp32"}
    assert answer["variants"] == [v.name for v in Bundle.open(folder / "b.medfm").manifest.variants]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "is not a model folder"),
        ({"study": "nowhere"}, "nowhere"),
        ({"rule": "best"}, "rule 'best' is unknown"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(call, folder, changes, message):
    values = {"model": "model", "study": "study", "rule": "youden", **changes}
    done = call("export", folder / values["model"], "--study", folder / values["study"], "--out", folder / "bad.medfm",
                "--rule", values["rule"])  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(folder.glob("*bad*"))


def test_a_bundle_says_which_modalities_it_is_for(tmp_path):
    study = draw_study(tmp_path / "study", patients=20, seed=0, size_px=64)
    found = modalities(study.source.root, [case.image for case in study.cases])
    assert found
    assert set(found) <= {"CR", "DX"}
    spec = tiny_study.SPEC
    assert not spec.dicom.modalities
    # The study's own where nothing was said, the model's before them, and what is asked before both.
    assert with_modalities(spec, ExportStep(), study).dicom.modalities == found
    own = msgspec.structs.replace(spec, dicom=DicomRules(modalities=("MG",)))
    assert with_modalities(own, ExportStep(), study).dicom.modalities == ("MG",)
    asked = ExportStep(dicom_modality=("XA", "RF"))
    assert with_modalities(own, asked, study).dicom.modalities == ("XA", "RF")
    assert with_modalities(spec, ExportStep(), tiny_study.make_study()).dicom.modalities == ()
    with pytest.raises(InputError, match="write a code"):
        ExportStep(dicom_modality=("chest x-ray",))


def test_export_says_what_it_will_accept(call, folder):
    done = call("export", folder / "model", "--study", folder / "study", "--out", folder / "mg.medfm",
                "--dicom-modality", "MG", "--dicom-modality", "CR")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "modality MG, CR are accepted" in done.stdout
    assert Bundle.open(folder / "mg.medfm").manifest.image_spec.dicom.modalities == ("MG", "CR")


def test_a_modality_is_suggested_for_grey_images_alone():
    spec = tiny_study.SPEC
    assert describe_accepted(spec).endswith("of radiographs --dicom-modality DX")
    photographs = msgspec.structs.replace(spec, colour_rule=ColourRule(images="colour"))
    assert describe_accepted(photographs).endswith("their predictions flagged dicom-kind-not-declared")
    dermoscopy = msgspec.structs.replace(photographs, dicom=DicomRules(modalities=("XC",)))
    assert describe_accepted(dermoscopy) == "DICOM files of modality XC are accepted, and no others"


def test_what_a_bundle_takes_is_set_by_command_before_the_model_s_own(call, folder):
    spec = msgspec.structs.replace(tiny_study.SPEC, dicom=DicomRules(view_positions=("PA",), lateralities=("L",)))
    assert with_dicom_kind(spec, ExportStep()) == spec
    asked = with_dicom_kind(spec, ExportStep(dicom_view=("AP",), min_side_px=48, max_spacing_mm=0.2))
    assert asked.dicom == DicomRules(view_positions=("AP",), lateralities=("L",), max_spacing_mm=0.2)
    assert asked.min_side_px == 48
    with pytest.raises(InputError, match="holds none"):
        with_dicom_kind(spec, ExportStep(min_spacing_mm=0.3, max_spacing_mm=0.2))
    wrong = {"dicom_view": "p a!", "dicom_body_part": "chest", "dicom_laterality": "l", "dicom_sop_class": "DX"}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"{name} is '{value}'; write a"):
            ExportStep(**{name: (value,)})
    out = folder / "kind.medfm"
    done = call("export", folder / "model", "--study", folder / "study", "--out", out, "--dicom-modality", "DX",
                "--dicom-sop-class", "1.2.840.10008.5.1.4.1.1.1.1", "--dicom-view", "PA", "--dicom-body-part", "CHEST",
                "--dicom-laterality", "U", "--min-spacing-mm", "0.1", "--max-spacing-mm", "0.2",
                "--min-side-px", "24")  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = ("modality DX", "SOP class 1.2.840.10008.5.1.4.1.1.1.1", "view PA", "body part CHEST", "laterality U",
             "spacing 0.1 to 0.2 mm")  # fmt: skip
    shown = call("inspect", out).stdout
    for word in words:
        assert word in done.stdout and word in shown
    assert "at least 24 px" in shown
    opened = Bundle.open(out).manifest
    assert opened.schema_version == 6 and opened.image_spec.min_side_px == 24


def with_channels(study, *, differ):
    """The study with images of three channels."""
    arrays = {case.image: study.source.read(case.image).values for case in study.cases}
    return [np.stack([values, values[::-1] if differ else values, values], axis=-1) for values in arrays.values()]


def save_study(folder, study, images):
    folder.mkdir()
    rows = ["image,split,label"]
    for case, values in zip(study.cases, images, strict=True):
        Image.fromarray(values).save(folder / f"{case.image}.png")
        rows.append(f"{case.image}.png,{case.split},{study.labels[case.target[0]]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return open_study(folder)


def test_a_bundle_says_which_kind_of_images_it_is_for(tmp_path):
    study = tiny_study.make_study()
    equal = save_study(tmp_path / "equal", study, with_channels(study, differ=False))
    colour = save_study(tmp_path / "colour", study, with_channels(study, differ=True))
    mixed = save_study(
        tmp_path / "mixed", study,
        [c if number % 2 else e for number, (c, e) in enumerate(
            zip(with_channels(study, differ=True), with_channels(study, differ=False), strict=True))],
    )  # fmt: skip
    spec, lines = tiny_study.SPEC, []

    def rule(step, cases, of=spec):
        return with_colour_rule(of, step, cases, lines.append).colour_rule

    assert rule(ExportStep(), study) == rule(ExportStep(), equal) == ColourRule(images="grey")
    assert rule(ExportStep(), colour) == ColourRule(images="colour")
    assert not lines
    assert rule(ExportStep(), mixed) is msgspec.UNSET
    assert "no image will be flagged" in lines[0]
    assert rule(ExportStep(image_colour="any"), colour) is msgspec.UNSET
    own = msgspec.structs.replace(spec, colour_rule=ColourRule(images="colour"))
    assert rule(ExportStep(), study, own) == ColourRule(images="colour")
    asked = ExportStep(image_colour="grey", other_colour="refuse")
    assert rule(asked, colour, own) == ColourRule(images="grey", others="refuse")
    for step in (ExportStep(other_colour="refuse"), ExportStep(image_colour="any", other_colour="refuse")):
        with pytest.raises(InputError, match="name it with --image-colour"):
            rule(step, mixed)


def test_export_and_quantize_hand_the_colour_rule_on(call, folder):
    done = call("export", folder / "model", "--study", folder / "study", "--out", folder / "strict.medfm",
                "--other-colour", "refuse")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "made for grey images; one that is in colour is refused" in done.stdout
    expected = ColourRule(images="grey", others="refuse")
    assert Bundle.open(folder / "strict.medfm").manifest.image_spec.colour_rule == expected
    seen = call("inspect", folder / "strict.medfm")
    assert "made for grey images; one that is in colour is refused" in seen.stdout
    done = call("quantize", folder / "strict.medfm", "--study", folder / "study", "--out", folder / "strict8.medfm",
                "--samples", 16, "--time-budget", 0, "--no-nncf")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Bundle.open(folder / "strict8.medfm").manifest.image_spec.colour_rule == expected


def test_colour_images_under_the_default_modality_are_warned_of_and_grey_ones_are_not(tmp_path):
    study, lines = tiny_study.make_study(), []
    images = with_channels(study, differ=True)
    images[0] = np.stack([images[0][..., 0]] * 3, axis=-1)  # one grey image, the first, says nothing of the others
    colour = save_study(tmp_path / "colour", study, images)
    equal = save_study(tmp_path / "equal", study, with_channels(study, differ=False))
    for cases, modality in ((equal, "radiograph"), (study, "radiograph"), (colour, "dermoscopy")):
        warn_of_modality(cases, modality, lines.append)
    assert not lines
    warn_of_modality(colour, "radiograph", lines.append)
    assert "the images are in colour and --modality is 'radiograph'" in lines[0]


def test_quantize_says_why_no_int8_variant_ships(call, folder):
    call("export", folder / "model", "--study", folder / "study", "--out", folder / "c.medfm")
    words = ("quantize", folder / "c.medfm", "--study", folder / "study", "--samples", 16, "--time-budget", 0,
             "--error-limit", 1e-9)  # fmt: skip
    done = call(*words, "--out", folder / "none.medfm")
    assert done.returncode == 0, done.stderr
    _, _, said = done.stdout.partition("no INT8 variant ships:\n")
    lines = [line for line in said.splitlines() if line.startswith("  ")]
    assert any(re.search(r"openvino-cpu-int8\S* by int8-\S*minmax\S* not kept: ", line) for line in lines), done.stdout
    assert any("onnxruntime-cpu-int8" in line for line in lines)
    answer = json.loads(call(*words, "--out", folder / "none.medfm", "--overwrite", "--json").stdout)
    assert len(answer["no_int8"]) == len(lines)

    manifest = Bundle.open(folder / "c.medfm").manifest
    assert why_no_int8(manifest) == ["the bundle was not quantized"]
    variant = msgspec.structs.replace(manifest.variants[0], precision="int8")
    assert why_no_int8(msgspec.structs.replace(manifest, variants=(variant,))) == []
