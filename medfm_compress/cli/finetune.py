"""``medfm-compress finetune``: train or fine-tune a teacher on a study."""

from __future__ import annotations

from medfm_compress.cli import console
from medfm_compress.cli.arguments import ModelOut, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import print_model
from medfm_compress.cli.next_command import after_finetune
from medfm_compress.cli.outputs import check_place
from medfm_compress.step_settings import FinetuneStep


@command()
def finetune(step: FinetuneStep, study: Study, out: ModelOut, overwrite: Overwrite = False) -> None:
    """Train a teacher on a study's train split; the epoch with the best validation score is kept. Resumes.

    The score is the AUROC, of a study with masks the Dice; there a network that answers for every pixel is named.
    Without epochs it packages the weights as they are. Runs on many devices under
    'torchrun --nproc-per-node N -m medfm_compress finetune ...'.
    """
    check_place(out)
    from medfm_compress import steps

    model = steps.finetune(study, step, console.progress, out, overwrite=overwrite)
    from medfm_compress.compress.networks.heads import is_at_zero

    following = after_finetune(out, study, step.training.modality, dense=model.task.is_dense, columns=step.columns)
    print_model(model, out, "" if is_at_zero(model.module) else following)
