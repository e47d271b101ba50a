"""Where skin is unusual: tiles of dermoscopy images, their lesion masks, and what darkness alone finds.

    python experiments/anomaly_places.py OUT --study skin-lesion --weights FILE
    medfm-compress compress OUT/job.yaml --out OUT/run

The study has lesion masks. A tile of 64 px without any lesion is *skin*; one of another image, of which a lesion fills
5 to 60 %, is *lesion*, with its part of the mask. No image gives two tiles. OUT receives ``cases.csv`` with images and
masks, and ``darkness.json``: pixel AUROC and per-region overlap of a map that says how dark a pixel is, averaged over
9 px; it shows whether a network's map knows more than that. Recipe and policy are written where there are none;
``--weights`` names ImageNet's weights of tf_efficientnet_lite0 in the recipe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medfm_compress.bench.evaluate.anomaly_evaluation import abnormal_pixels
from medfm_compress.bench.stats.place_ranking import PlaceRanking
from medfm_compress.data.masks import mask_folder, read_label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Case, Study

SIDE_PX, MARGIN_PX = 64, 4
COUNTS = {("train", "skin"): 300, ("val", "skin"): 100, ("test", "skin"): 150, ("test", "lesion"): 150}
LESION = (0.05, 0.60)
RECIPE = """\
name: skin-places
policy: policy.yaml
study: cases.csv
anomaly:
  normal: [skin]
  teachers: [{encoder: tf_efficientnet_lite0, weights: WEIGHTS, image_size: 128, licence: Apache-2.0}]
  embed:
    student: resnet10t
    training: {epochs: 24, learning_rate: 0.002, patience: 0, modality: dermoscopy}
  fit: {scorer: patches, length: 32}
quantize: {samples: 96, time_budget_s: 60, nncf: false, keep_fp32: true}
bench: {plan: {rounds: 10, threads: 1}}
"""
POLICY = """\
non_inferiority:
  - {metric: auroc, margin: 0.05}
  - {metric: pixel_auroc, margin: 0.05}
  - {metric: pro, margin: 0.10}
min_positives: 50
min_negatives: 50
min_clusters: 100
"""


def cut(study: Study, out: Path) -> None:
    """Write tiles, masks and ``cases.csv``."""
    wanted = [(split, label) for (split, label), count in COUNTS.items() for _ in range(count)]
    drawn = [case for case in study.cases if any(case.masks)]
    order = np.random.default_rng(0).permutation(len(drawn))
    lines = ["image,split,label,mask"]
    rng = np.random.default_rng(1)
    for number in order:
        if not wanted:
            break
        case = drawn[number]
        pixels = study.source.read(case.image).values
        mask = read_label_map([mask_folder(study) / case.masks[0]], ("lesion",)) > 0
        found = next(((i, at) for i in range(len(wanted)) if (at := place(mask, wanted[i][1], rng)) is not None), None)
        if found is None:
            continue
        (split, label), (row, column) = wanted.pop(found[0]), found[1]
        tile = np.s_[row : row + SIDE_PX, column : column + SIDE_PX]
        name = f"{len(lines)}.png"
        Image.fromarray(pixels[tile]).save(out / "images" / name)
        drawn_mask = ""
        if label == "lesion":
            drawn_mask = f"masks/{name}"
            Image.fromarray(255 * mask[tile].astype(np.uint8)).save(out / drawn_mask)
        lines.append(f"images/{name},{split},{label},{drawn_mask}")
    if wanted:
        raise SystemExit(f"{len(wanted)} tiles are lacking: the study has too few images with masks")
    (out / "cases.csv").write_text("\n".join(lines) + "\n")


def place(mask: NDArray[np.bool_], label: str, rng: np.random.Generator) -> tuple[int, int] | None:
    """Upper left corner of a tile of that kind; None where 20 tries find none."""
    for _ in range(20):
        row, column = (int(rng.integers(0, side - SIDE_PX + 1)) for side in mask.shape)
        if label == "lesion":
            share = mask[row : row + SIDE_PX, column : column + SIDE_PX].mean()
            fits = LESION[0] <= share <= LESION[1]
        else:
            top, left = max(row - MARGIN_PX, 0), max(column - MARGIN_PX, 0)
            fits = not mask[top : row + SIDE_PX + MARGIN_PX, left : column + SIDE_PX + MARGIN_PX].any()
        if fits:
            return row, column
    return None


def darkness(study: Study, cases: tuple[Case, ...]) -> dict[str, float]:
    """Metrics of places of a map that is the darkness of pixels, averaged over 9 px."""
    maps = []
    for case in cases:
        grey = Image.fromarray(study.source.read(case.image).values).convert("L").filter(ImageFilter.BoxBlur(4))
        maps.append(255 - np.asarray(grey, np.float32))
    ranking = PlaceRanking(maps)
    for scores, case in zip(maps, cases, strict=True):
        ranking.add(scores, abnormal_pixels(study, case, (SIDE_PX, SIDE_PX)))
    metrics = {"pixel_auroc": ranking.pixel_auroc(), "pro": ranking.pro()}
    return {name: round(float(np.nanmean(values)), 4) for name, values in metrics.items()}


def main() -> int:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    for folder in ("images", "masks"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    if not (options.out / "cases.csv").exists():
        cut(open_study(options.study), options.out)
    for name, text in (
        ("job.yaml", RECIPE.replace("WEIGHTS", str(options.weights.resolve()))),
        ("policy.yaml", POLICY),
    ):
        if not (options.out / name).exists():
            (options.out / name).write_text(text)
    study = open_study(options.out / "cases.csv", normal=("skin",))
    (options.out / "darkness.json").write_bytes(msgspec.json.encode(darkness(study, study.split("test"))))
    sys.stdout.write((options.out / "darkness.json").read_text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
