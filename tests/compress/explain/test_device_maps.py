"""Maps that networks give themselves: bundle and teacher by one formula, in their own engines."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("timm")

from medfm_compress.__main__ import main
from medfm_compress.bench.evaluate.attribution_agreement import load_explanations
from medfm_compress.bench.render.attribution_maps import read_pairs
from medfm_compress.compress.explain.explain import MOST_PICTURED, explain
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import Model, create_module, load_model, save_model
from medfm_compress.data.masks import mask_folder
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=96, width_px=96, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="binary", labels=("normal", "opacity"))
NETWORKS = {
    "class activation": ("test_resnet", {}),
    "class token attention": ("test_vit", {"img_size": 96}),
}
DEVICE = ExplainOptions(cases=6, method="device")


def model(method: str) -> Model:
    torch.manual_seed(0)
    name, arguments = NETWORKS[method]
    architecture = Architecture(name=name, arguments={"num_classes": 2, "in_chans": 1, **arguments})
    module = create_module(architecture)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Model(name, module, SPEC, TASK, architecture)


def write(teacher: Model, path: Path, *, heat_map: bool = True) -> Path:
    draft = BundleDraft(
        name=teacher.name,
        spec=SPEC,
        task=TASK,
        provenance=Provenance(student=f"{teacher.name}@{teacher.weights_sha256()}"),
        intended_use="tests",
        false_refusal_rate=0,
        heat_map=heat_map,
    )
    build_bundle(teacher.module, draft, path)
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Model, Path]]:
    root = tmp_path_factory.mktemp("made")
    return {method: (teacher := model(method), write(teacher, root / f"{teacher.name}.medfm")) for method in NETWORKS}


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright squares, each with its mask where there is one."""
    root, random = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    rows = ["image,split,label,mask"]
    for number in range(40):
        values, mask = random.normal(90, 20, (96, 120)), np.zeros((96, 120), np.uint8)
        row, column = random.integers(10, 60, 2)
        if number % 2:
            values[row : row + 25, column : column + 25] += 90
            mask[row : row + 25, column : column + 25] = 255
            Image.fromarray(mask).save(root / f"m{number}.png")
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(root / f"{number}.png")
        drawn = f"m{number}.png" if number % 2 else ""
        rows.append(f"{number}.png,test,{('normal', 'opacity')[number % 2]},{drawn}")
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def study(study_folder: Path) -> Study:
    return open_study(study_folder)


@pytest.mark.parametrize("method", NETWORKS)
def test_the_exported_teacher_gives_its_own_map_and_random_weights_another(
    made: dict[str, tuple[Model, Path]], study: Study, method: str, tmp_path: Path
) -> None:
    teacher, bundle = made[method]
    explained = explain(bundle, teacher, study, tmp_path, DEVICE)
    *variants, floor = explained.agreements
    assert [row.variant for row in variants] == [v.name for v in Bundle.open(bundle).manifest.variants]
    assert floor.variant == "randomised" and np.mean(floor.rank_correlation) < 0.9
    for row in variants:
        assert row.method == f"{method} / {method}"
        assert min(row.rank_correlation) > 0.999 and min(row.overlap) > 0.9
        assert row.pointing == row.teacher_pointing


def test_pointing_is_of_drawn_cases_with_the_finding(
    made: dict[str, tuple[Model, Path]], study: Study, tmp_path: Path
) -> None:
    from medfm_compress.bench.evaluate.map_accuracy import points_at
    from medfm_compress.export.cases import network_inputs
    from medfm_compress.runtime.class_activation import ClassActivation, on_image

    teacher, bundle = made["class activation"]
    row = explain(bundle, teacher, study, tmp_path, DEVICE).agreements[0]
    for position, points in zip(row.cases, row.teacher_pointing, strict=True):
        case = study.cases[position]
        assert (points is None) == (case.target == (0,))
        if points is None:
            continue
        with torch.no_grad():  # by nothing that the export uses
            features = teacher.module.forward_features(torch.from_numpy(network_inputs(study, [case], SPEC)))
            maps = torch.einsum("kc,chw->khw", teacher.module.fc.weight, features[0]).numpy()
            logits = teacher.module.forward_head(features)[0].numpy()
        mask = np.asarray(Image.open(mask_folder(study) / case.masks[0])) > 0
        evidence = ClassActivation(maps, logits).evidence(TASK, "opacity")
        assert points == points_at(on_image(evidence, SPEC, *mask.shape), mask)


def test_a_bundle_can_be_the_teacher_and_has_no_floor(
    made: dict[str, tuple[Model, Path]], study_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, bundle = made["class activation"]
    words = ["explain", bundle, "--teacher", bundle, "--study", study_folder, "--out", tmp_path / "o"]
    assert run(*words, "--method", "device", "--cases", "4", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["agreements"]
    assert {row["variant"] for row in rows} == {v.name for v in Bundle.open(bundle).manifest.variants}
    identity = f"{teacher.name}@{teacher.weights_sha256()}"  # of the network that the teacher was exported from
    assert load_explanations(tmp_path / "o", teacher=identity)
    with pytest.raises(InputError, match="another teacher"):
        load_explanations(tmp_path / "o", teacher="other@0")
    assert run(*words, "--overwrite") == 2
    assert "--method device" in capsys.readouterr().err


def test_a_network_without_maps_is_refused_with_the_reason(
    made: dict[str, tuple[Model, Path]], study: Study, tmp_path: Path
) -> None:
    teacher, bundle = made["class activation"]
    plain = write(teacher, tmp_path / "plain.medfm", heat_map=False)
    with pytest.raises(InputError, match=r"plain\.medfm gives no maps.*--heat-map.*--method occlusion"):
        explain(plain, teacher, study, tmp_path / "out", DEVICE)
    small = msgspec.structs.replace(SPEC, height_px=32, width_px=32)
    tiny = Model("tiny", teacher.module, small, TASK, teacher.architecture)
    with pytest.raises(InputError, match=r"the teacher tiny gives no maps.*no heat map: .*1 × 1.*--method occlusion"):
        explain(bundle, tiny, study, tmp_path / "out", DEVICE)
    with pytest.raises(InputError, match=r"plain\.medfm gives no maps"):
        explain(bundle, Bundle.open(plain), study, tmp_path / "out", DEVICE)
    assert not (tmp_path / "out").exists()


def test_maps_and_pictures_are_kept_of_the_cases_that_agree_least(
    made: dict[str, tuple[Model, Path]], study: Study, tmp_path: Path
) -> None:
    _, bundle = made["class activation"]
    other = model("class token attention")
    options = ExplainOptions(cases=30, method="device", variant="onnxruntime-cpu-fp32")
    explained = explain(bundle, other, study, tmp_path, options)
    row, floor = explained.agreements
    assert row.method == "class token attention / class activation" and len(row.cases) == len(floor.cases) == 30
    ranks = dict(zip(row.cases, row.rank_correlation, strict=True))
    least = sorted(sorted(ranks, key=lambda case: ranks[case])[:MOST_PICTURED])
    pairs = read_pairs(tmp_path)
    assert [pair.title.partition(":")[0] for pair in pairs] == [f"Case {case + 1}" for case in least] * 2
    assert len(list(explained.folder.glob("*-input.png"))) == MOST_PICTURED


def test_a_saved_teacher_is_the_same_teacher(made: dict[str, tuple[Model, Path]], study: Study, tmp_path: Path) -> None:
    teacher, bundle = made["class token attention"]
    folder = save_model(teacher, tmp_path / "teacher")
    explain(bundle, load_model(folder), study, tmp_path / "out", msgspec.structs.replace(DEVICE, cases=2))
    assert load_explanations(tmp_path / "out", teacher=f"{teacher.name}@{teacher.weights_sha256()}")


def test_the_command_exports_a_model_folder_by_itself(
    made: dict[str, tuple[Model, Path]], study_folder: Path, tmp_path: Path
) -> None:
    teacher, bundle = made["class activation"]  # opened as a teacher it keeps its channels last
    folder = save_model(teacher, tmp_path / "teacher")
    words = ("explain", bundle, "--teacher", folder, "--study", study_folder, "--out", tmp_path / "o")
    assert run(*words, "--method", "device", "--cases", "2") == 0
    assert min(load_explanations(tmp_path / "o")[0].rank_correlation) > 0.999
