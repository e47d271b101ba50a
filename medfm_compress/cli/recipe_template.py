"""The commented recipe that ``medfm-compress recipe init`` writes.

A line whose ``#`` is followed by a space is prose; one whose ``#`` is not is a setting that is switched off. All
of them switched on are a recipe too.
"""

from __future__ import annotations

from pathlib import Path

from medfm_compress.cli.recipe_schema import recipe_schema
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import encode

SCHEMA_FILE = "recipe.schema.json"
_HEAD = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
#
# The whole job: teacher, student, bundle, INT8, report, verdict. Every section is a command of its own, every key is in
# docs/recipe.md. Remove a '#' that no space follows to switch a line on.
name: my-model                  # of the bundle
policy: policy.yaml             # what must hold; 'medfm-compress policy init policy.yaml' writes a starter
study: my-study                 # a folder with cases.csv; the command's --study takes its place

# How to cut the study by patient; without this section its own splits hold.
#split:
  #keep_test: true              # leave its test split as it is
  #drop_leaking: true           # leave out what shares a patient or an image with it
  #val: 0.1

"""
_CLASSIFICATION = """\
teacher:
  model: resnet18               # a timm model that is trained here; or 'folder:' with a model folder as it stands
  image_size: 224
  licence: unknown              # of its weights; every student inherits it
  #weights: weights.safetensors
  training: {epochs: 12, modality: radiograph}

distill:
  student: resnet10t            # timm name, model folder, scaled:width=0.5,depth=0.5, or auto
  #target: "openvino:cpu:int8:1"  # with student auto: where it will run
  training: {epochs: 30, modality: radiograph}
  #distillation: {temperature: 3, teacher_weight: 0.8, views: 6, qat: false}

# Make the student smaller itself; one goal of min_speedup, max_latency_ms, max_macs and max_size_mb.
#prune: {min_speedup: 1.5, target: "openvino:cpu:int8:1"}

export:
  rule: youden                  # of the operating points; or sensitivity>=0.95, specificity>=0.90
"""
_ANOMALY = """\
anomaly:
  normal: [benign]              # labels of the study that are normal; every other one is abnormal
  teachers:                     # encoders whose features are learned; the bundle is held against the first one's
    - encoder: resnet18         # timm name, model folder, backbone folder of 'pretrain', or encoder folder of 'embed'
      weights: weights.safetensors
      image_size: 224
      #licence: unknown         # of its weights; the bundle inherits it
  embed:                        # the small encoder; without this section the teacher itself is shipped
    student: resnet10t
    training: {epochs: 30, modality: radiograph}
    #embedding: {length: [16, 32, 64]}
  fit: {scorer: mahalanobis}    # or knn, or patches, which gives a map

export:
  rule: false-alarm-rate<=0.05  # on normal validation cases; takes 19 of them
"""
_REST = """\
  intended_use: Research only. Not for clinical use.

quantize: {samples: 300, time_budget_s: 300}

bench: {plan: {rounds: 20, threads: 1}}
"""
STARTER = f"{_HEAD}{_CLASSIFICATION}{_REST}"
ANOMALY_STARTER = f"{_HEAD}{_ANOMALY}{_REST}".replace("policy init policy.yaml'", "policy init policy.yaml --anomaly'")


def write_starter(path: Path, starter: str = STARTER) -> tuple[Path, ...]:
    """Write ``starter`` to ``path`` and, beside it, the schema that editors complete and check it by.

    Returns:
        What was written; a schema that is there already is left as it is.

    Raises:
        InputError: ``path`` exists, or its folder cannot be written.
    """
    if path == Path():
        raise InputError("OUT is empty or '.'; give the path of the file to write")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists and is not overwritten; name another file, or remove it first")
    write_atomically(path, starter.encode())
    schema = path.parent / SCHEMA_FILE
    if schema.exists():
        return (path,)
    write_atomically(schema, encode(recipe_schema()))
    return (path, schema)
