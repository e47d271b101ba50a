"""Whether weights that pruning made 2:4 sparse still are so in an exported bundle.

Exporters fold, split and rename weights, so what is compared is the number of zeros in 2:4 weights: see
`verify_sparse_onnx`.
"""

from __future__ import annotations

from pathlib import Path

from medfm_compress.compress.networks.model import load_model
from medfm_compress.compress.pruning import record as records
from medfm_compress.compress.pruning.record import RECORD, PruningRecord
from medfm_compress.compress.pruning.sparsity import sparse_layers, verify_sparse_onnx
from medfm_compress.runtime.bundle.bundle import Bundle


def check_exported_sparsity(folder: Path, bundle: Path) -> tuple[str, ...]:
    """Check every ONNX file of ``bundle``; names of the sparse layers, none where pruning made none.

    Args:
        folder: the model folder that was exported.
        bundle: with FP32 variants.

    Raises:
        ModelError: a file holds fewer zeros in 2:4 weights than the module.
    """
    record = records.load(folder / RECORD, PruningRecord)
    if record is None or not record.sparse:
        return ()
    module = load_model(folder).module
    layers, weights = sparse_layers(module), module.state_dict()
    zeros = sum(int((weights[f"{layer}.weight"] == 0).sum().item()) for layer in layers)
    opened = Bundle.open(bundle)
    for variant in opened.manifest.variants:
        for member in variant.files:
            if member.endswith(".onnx"):
                verify_sparse_onnx(opened.read(member), zeros)
    return layers
