"""What `run`, `inspect` and the page say of an anomaly score: never that it is a probability."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scored_bundle as scored
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.export.self_contained.build import export_self_contained
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.runtime import Bundle
from medfm_compress.runtime.bundle.bundle import NEAREST_CASES, write_bundle
from medfm_compress.runtime.errors import EXIT_OK, EXIT_UNUSABLE, InputError


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return scored.bundle(tmp_path_factory.mktemp("scored") / "a.medfm")


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(scored.image()).save(path)
    return path


def test_a_line_says_score_and_the_nearest_case(bundle, image, capsys):
    assert run(["run", str(bundle), str(image), "--unverified"]) == EXIT_OK
    line = capsys.readouterr().out
    assert "abnormal score 0.8" in line and "(called)" in line and "most like training case 0000" in line
    assert "probab" not in line


def test_a_folder_says_score_in_its_head(bundle, image, capsys):
    assert run(["run", str(bundle), str(image.parent), "--unverified"]) == EXIT_OK
    assert capsys.readouterr().out.splitlines()[0].split() == ["image", "abnormal", "score"]


def test_json_has_scores_and_whole_hashes(bundle, image, capsys):
    assert run(["run", str(bundle), str(image), "--unverified", "--json"]) == EXIT_OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["findings"] == {"abnormal": True} and 0.8 < row["scores"]["abnormal"] < 0.95
    assert all(len(value) == 64 for value in row["nearest"])


def test_a_heat_map_is_written_at_the_images_own_size(bundle, image, tmp_path, capsys):
    folder = tmp_path / "maps"
    assert run(["run", str(bundle), str(image), "--unverified", "--heatmap", str(folder)]) == EXIT_OK
    capsys.readouterr()
    (path,) = folder.iterdir()
    shown, plain = np.asarray(Image.open(path)).astype(int)[:64, :96], np.repeat(scored.image()[..., None], 3, axis=2)
    changed = np.abs(shown - plain).max(axis=2) > 10
    assert changed[46:50, 10:18].all() and not changed[:24].any() and not changed[:, 48:].any()


def test_a_score_without_a_map_has_no_heat_map(image, tmp_path, capsys):
    import onnx

    members = scored.contents(scored.network())
    del members[NEAREST_CASES]
    model = onnx.load_model_from_string(members["model.onnx"])
    kept = [value for value in model.graph.output if value.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    members["model.onnx"] = model.SerializeToString()
    write_bundle(tmp_path / "b.medfm", scored.draft(outputs=(scored.LOGITS,)), members)
    code = run(["run", str(tmp_path / "b.medfm"), str(image), "--unverified", "--heatmap", str(tmp_path / "maps")])
    assert code == EXIT_UNUSABLE
    assert "gives no anomaly map" in capsys.readouterr().err and not (tmp_path / "maps").exists()


def test_inspect_says_what_is_normal_and_that_sensitivity_is_not_known(bundle, capsys):
    assert run(["inspect", str(bundle)]) == EXIT_OK
    shown = capsys.readouterr().out
    assert "normal, benign; the score orders images and is no probability of disease" in shown
    assert "specificity 0.950 on 40 normal validation cases; sensitivity is not known" in shown
    assert "sensitivity 0.000" not in shown


def test_the_page_says_score(bundle):
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.page.reading import ReadingDesk, Source

    with Engine(bundle, unverified=True, threads=1) as engine:
        facts = ReadingDesk(Source(lambda: engine)).facts()
    assert facts["measure"] == "score"
    assert facts["findings"][0]["sensitivity"] is None and facts["findings"][0]["specificity"] == 0.95


def test_one_file_for_any_host_is_refused(bundle, tmp_path):
    with pytest.raises(InputError, match="scores anomalies"):
        export_self_contained(Bundle.open(bundle), SelfContainedOptions(), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_policy_for_scores(tmp_path, capsys):
    assert run(["policy", "init", str(tmp_path / "p.yaml"), "--anomaly"]) == EXIT_OK
    assert "pixel_auroc" in (tmp_path / "p.yaml").read_text()
    assert run(["policy", "init", str(tmp_path / "q.yaml"), "--anomaly", "--segmentation"]) == EXIT_UNUSABLE
    assert "two kinds of network" in capsys.readouterr().err
