"""A network of segmentation that starts from the weights of a classifier: its encoder takes them.

A file is of the encoder where no tensor of it is called as the whole network's are (``encoder.…``), and fits where
every tensor that the encoder has is in it; what it has beyond (classifier, last convolution) is left out. timm calls
the same layer ``stages.0.…`` in a classifier and ``stages_0.…`` in some encoders.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from medfm_compress.compress.networks.model import fit, metadata_of, read_state_dict, with_metadata
from medfm_compress.compress.networks.smp_networks import ENCODER


def is_of_encoder(module: nn.Module, path: Path) -> bool:
    """Whether the file at ``path`` has an encoder's weights, not those of the whole network ``module``."""
    return not any(name.startswith(ENCODER) for name in read_state_dict(path))


def load_encoder(module: nn.Module, path: Path) -> None:
    """Load a timm network's file, or that of the library's own encoder, into the encoder of ``module`` in place.

    Raises:
        ModelError: a tensor of the encoder that the file lacks, or has in another shape.
    """
    encoder: nn.Module = getattr(module.encoder, "model", module.encoder)  # type: ignore[arg-type]
    state, own = read_state_dict(path), encoder.state_dict()
    known = {name: flat for name in state for flat in (name, name.replace(".", "_", 1)) if flat in own}
    kept = {flat: state[name] for name, flat in known.items()}
    fit(encoder, with_metadata(kept, metadata_of(state)), str(path), colour_option="--colour")
