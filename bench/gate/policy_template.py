"""The commented policy that ``medfm-compress policy init`` writes.

A line whose ``#`` is followed by a space is prose; one whose ``#`` is not is a setting that is switched off. All
of them switched on are a policy too.
"""

from __future__ import annotations

from pathlib import Path

from medfm_compress.bench.gate.policy_schema import policy_schema
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import encode

SCHEMA_FILE = "policy.schema.json"
_HEAD = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
#
# What must hold before a bundle ships. Commit this file before any model has seen a test case: the report cites its
# hash, and the gate refuses a policy that changed afterwards. Remove a '#' that no space follows to switch a line on.

"""
_CLASSIFICATION = """\
# Required comparisons: bundle - teacher on the same cases, paired, clustered by patient. An entry passes where the
# interval of the difference rules out a loss of 'margin' or more in the metric's own unit (0.02: two points of AUROC).
# Metrics: auroc, auprc, accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, f1; and the errors brier and
# log_loss, of which a rise is the loss. ece is reported and cannot be required: it is biased on few cases.
non_inferiority:
  - metric: auroc
    margin: 0.02
    teacher_floor: 0.80         # its interval must lie above: a poor teacher proves nothing; for the errors a ceiling
    #bundle_floor: 0.80
    #finding: pneumonia         # one finding; without it, every finding of the task
  #- {metric: sensitivity, margin: 0.05}
  #- {metric: brier, margin: 0.01, bundle_floor: 0.20}
  #- {metric: auroc, margin: 0.05, subgroup: sex}         # in every group of a column declared below

"""
_SEGMENTATION = """\
# Required comparisons: bundle - teacher on the same cases, paired, clustered by patient. An entry passes where the
# interval of the difference of the means rules out a loss of 'margin' or more in the metric's own unit.
# Metrics of masks, one value a case: dice, iou, surface_dice, lesion_sensitivity, small_lesion_sensitivity; and, of
# which a rise is the loss, hd95 (px, or mm where every image says its spacing) and false_positives_per_image. Of
# whether an image shows the structure at all: auroc, sensitivity, specificity. Cases that do not show a structure are
# left out of its Dice, distances and sensitivities, and count for its false positives.
non_inferiority:
  - metric: dice
    margin: 0.02
    teacher_floor: 0.70         # its interval must lie above: a poor teacher proves nothing; for hd95 a ceiling
    #bundle_floor: 0.70
    #finding: lesion            # one structure; without it, every structure of the task
  - {metric: lesion_sensitivity, margin: 0.05}
  - {metric: false_positives_per_image, margin: 0.25}
  #- {metric: small_lesion_sensitivity, margin: 0.10}      # lost small lesions hide in every other figure
  #- {metric: surface_dice, margin: 0.05}
  #- {metric: hd95, margin: 5}
  #- {metric: dice, margin: 0.05, subgroup: sex}           # in every group of a column declared below

# How masks are held against the truth.
masks:
  #surface_tolerance_px: 2.0    # outlines no farther apart are the same in surface_dice
  #surface_tolerance_mm: 1.0    # where every image says its spacing
  #lesion_overlap: 0.1          # a drawn region finds a true one from this intersection over union on
  #small_lesion_percent: 1.0    # of its image: a true region below it is a small one
  #lost_below_dice: 0.1         # a structure that both draw counts as lost by the one whose Dice is below this

"""
_ANOMALY = """\
# Required comparisons: bundle - teacher on the same cases, paired, clustered by patient. An entry passes where the
# interval of the difference rules out a loss of 'margin' or more in the metric's own unit (0.02: two points of AUROC).
# Metrics of images: auroc, auprc, accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, f1. Of places, where
# abnormal cases have a mask and the models give a map: pixel_auroc, and pro (per-region overlap, up to 30% of normal
# pixels called). A score that orders images is no probability: there is no brier, log_loss or ece.
non_inferiority:
  - metric: auroc
    margin: 0.05
    teacher_floor: 0.70         # its interval must lie above: a poor teacher proves nothing
    #bundle_floor: 0.70
  - {metric: specificity, margin: 0.05}                     # false alarms, at the threshold of each
  #- {metric: sensitivity, margin: 0.10}
  #- {metric: pixel_auroc, margin: 0.05}
  #- {metric: pro, margin: 0.10}                           # lost at pixel level hides in every figure of images
  #- {metric: auroc, margin: 0.05, subgroup: sex}          # in every group of a column declared below

"""
_SUBGROUPS = """\
# Columns of the study whose groups are compared one by one. Without cuts every value is a group; cuts divide a number:
# [40, 70] makes < 40, 40 to below 70, and >= 70. A group with too few patients is inconclusive, or, with 'named', only
# named in the verdict's notes.
subgroups:
  #- {column: sex}
  #- {column: age, cuts: [40, 70], when_too_few: named}
  #- {column: age × sex}       # every combination of their groups

"""
_PERTURBED = """\
# What the bundle may lose beyond the teacher when the images are perturbed: noise, exposure, gamma, contrast, jpeg,
# blur, rotation, shift, each at severities 1 to 3. Every condition is evaluated on all test cases and takes its time.
robustness:
  #- {metric: auroc, margin: 0.05, severities: [1, 2]}
  #- {metric: sensitivity, margin: 0.10, perturbations: [exposure, blur], severities: [1]}

"""
_PERTURBED_MASKS = """\
# What the bundle may lose beyond the teacher when the images are perturbed: noise, exposure, gamma, contrast, jpeg or
# blur, each at severities 1 to 3. (rotation and shift would move an image away from its mask.)
robustness:
  #- {metric: dice, margin: 0.05, perturbations: [noise, exposure, blur], severities: [1, 2]}

"""
_FIDELITY = """\
# How near to the teacher every variant must stay, case by case.
fidelity:
  #max_relative_logit_error: 0.10   # for a quantized teacher, not for a student of another architecture
  #min_agreement: 0.95              # share of patients with no changed decision, lower end of its interval

"""
_EXPLANATIONS = """\
# Whether every variant looks where the teacher looks, by the agreement of their heat maps; of a classification. Needs
# 'medfm-compress explain' with the same --teacher and --out before bench.
explanations:
  #min_rank_correlation: 0.90       # of the median case, lower end of its interval
  #min_overlap: 0.70                # likewise; chance gives 0.1

"""
_LIMITS = """\
# Hard limits for every variant; leave out what does not bind. Times are in ms at batch 1, sizes in bytes.
budget:
  #p50_ms: 50                   # the network alone, median
  #p99_ms: 100                  # and its 99th percentile; takes at least 368 timed calls
  #end_to_end_p50_ms: 80        # from file to prediction
  #end_to_end_p99_ms: 160
  #first_prediction_ms: 2000    # from the start of the process
  #size_bytes: 20000000         # of the files that one variant needs
  #peak_rss_bytes: 500000000    # memory of its process
  #peak_gpu_bytes: 2000000000
  #energy_mj: 500               # of one call, where the machine has a counter
  #min_speedup: 4.0             # teacher in PyTorch / variant, on the same number of threads
  #min_compression: 4.0         # teacher's files / variant's files
  #max_slowdown: 1.05           # against an earlier bundle: bench --baseline-bundle EARLIER.medfm

# Fewer patients than these are inconclusive before any interval is computed.
min_positives: 20
min_negatives: 20
min_clusters: 40

alpha: 0.025                    # one-sided; 0.025 gives two-sided 95% intervals
resamples: 2000
seed: 0
"""
STARTER = f"{_HEAD}{_CLASSIFICATION}{_SUBGROUPS}{_PERTURBED}{_FIDELITY}{_EXPLANATIONS}{_LIMITS}"
ANOMALY_STARTER = f"{_HEAD}{_ANOMALY}{_SUBGROUPS}{_PERTURBED}{_FIDELITY}{_LIMITS}"
SEGMENTATION_STARTER = f"{_HEAD}{_SEGMENTATION}{_SUBGROUPS}{_PERTURBED_MASKS}{_FIDELITY}{_LIMITS}"


def write_starter(path: str | Path, starter: str = STARTER) -> tuple[Path, ...]:
    """Write the starter to ``path`` and, beside it, the schema that editors complete and check it by.

    Args:
        path: of the policy; nothing may be there.
        starter: one of the three above, by the kind of network.

    Returns:
        What was written; a schema that is there already is left as it is.

    Raises:
        InputError: ``path`` exists, or its folder cannot be written.
    """
    path = Path(path)
    if path == Path():
        raise InputError("OUT is empty or '.'; give the path of the file to write")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists and is not overwritten; name another file, or remove it first")
    schema = path.parent / SCHEMA_FILE
    is_new = schema != path and not schema.exists()
    if is_new:  # first, so that a disk too full for both is left without a policy that names it
        write_atomically(schema, encode(policy_schema()))
    write_atomically(path, starter.encode())
    return (path, schema) if is_new else (path,)
