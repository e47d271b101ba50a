"""What a step refuses before any work: a misspelt network, a folder in use, an output that is an input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.artefacts import ENCODER_CARD, MODEL_CARDS
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.errors import InputError, ModelError

if TYPE_CHECKING:
    from medfm_compress.compress.teachers.source import TeacherSource

_LOCK = Path("training", "checkpoint.lock")  # what `training.loop` holds while it trains
_PATIENCE_S = 0.5  # another process of the same training may be looking too


def refuse_misspelt(*names: str) -> None:
    """Said at once, before any library of training is loaded: timm has every network that is named as one.

    Raises:
        ModelError: it has not; the nearest names are said.
    """
    from medfm_compress.compress.networks.listed_names import refuse_unlisted

    for name in names:
        if name and name != "auto" and not name.startswith("scaled:") and not Path(name).exists():
            refuse_unlisted(name.removeprefix("timm:"))


def refuse_to_overwrite(out: Path, overwrite: bool) -> None:
    """Said at once, and not after the training: a model is a folder, and one that is there is not replaced unasked.

    What an interrupted call left has no card yet, and is gone on with.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; a model is a folder: name another")
    if (out / _LOCK).is_file():
        with exclusive(out / _LOCK, _PATIENCE_S, "trains in"):
            pass  # said before the teacher is asked, and not only when the training begins
    if overwrite or not out.is_dir():
        return
    finished = any((out / card).exists() for card in MODEL_CARDS)
    interrupted = (out / "training").is_dir() and not finished
    if any(out.iterdir()) and not interrupted:
        what = "holds a finished model" if finished else "is a folder that is not empty"
        raise InputError(f"--out {out} {what}; name another folder, or write into it with --overwrite")


def refuse_to_replace_inputs(out: Path, teachers: tuple[TeacherSource, ...], student: str) -> None:
    """A model must not be written over one that it learns from."""
    inputs = {Path(source.source.removeprefix("outputs:")).resolve() for source in teachers}
    if out.resolve() in {*inputs, Path(student).resolve()}:
        raise ModelError(f"--out {out} is one of the models it learns from, and would replace it; name another folder")


def refuse_classifier_on(encoder: Path) -> None:
    """What ``embed`` writes has no place for a classifier, which is said before anything is loaded."""
    if (encoder / ENCODER_CARD).is_file():
        raise ModelError(
            f"{encoder} is an encoder of 'embed', which has no classifier of its own that another could take the place "
            "of; the curves need none, a model folder does: leave --out away, or put a model folder of 'finetune' or "
            "'distill' or a backbone of 'pretrain' first"
        )
