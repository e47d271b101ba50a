"""The command that goes on from what a command wrote, ready for a shell: quoted, and with a name that is free."""

from __future__ import annotations

import shlex
from pathlib import Path

from medfm_compress.cli import console

_STUDENT = "resnet10t"  # small, and takes images of any size; docs/students.md says how to choose
_DENSE_STUDENT = "smp:unet/tu-mobilenetv3_small_100"  # likewise, where there are masks


def command_line(*words: object) -> str:
    """``medfm-compress`` and ``words``, quoted for a shell."""
    return shlex.join(["medfm-compress", *map(_word, words)])


def print_next(command: str) -> None:
    """The last line of a command that others go on from."""
    console.say(f"next: {command}")


def after_pretrain(model: str, image_size: int, study: Path, backbone: Path) -> str:
    """The command that fine-tunes from a backbone."""
    out = _free(backbone, "-teacher")
    return command_line(
        "finetune", model, "--study", study, "--image-size", image_size, "--weights", backbone, "--out", out
    )


def after_finetune(teacher: Path, study: Path, modality: str, *, dense: bool = False, columns: str = "") -> str:
    """The command that distils a small student from a teacher.

    It answers for every pixel where the teacher is ``dense``, and is told ``columns`` as the teacher was.
    """
    out, student = _free(teacher, "-student"), _DENSE_STUDENT if dense else _STUDENT
    told = ("--columns", columns) if columns else ()
    return command_line(
        "distill", teacher, "--student", student, "--study", study, "--modality", modality, *told, "--out", out
    )


def after_distill(model: Path, study: Path) -> str:
    """The command that exports a model folder."""
    return command_line("export", model, "--study", study, "--out", _free(model, ".medfm"))


def after_export(bundle: Path, study: Path | None, images: Path | None = None) -> str:
    """The command that quantizes a bundle, with the study or the images without labels that exported it."""
    cases = ("--study", study) if study is not None else ("--images", images)
    return command_line("quantize", bundle, *cases, "--out", _free(bundle.with_suffix(""), "-int8.medfm"))


def after_quantize(bundle: Path, study: Path, *, dense: bool = False) -> str:
    """The command that begins a policy beside the bundle, or that holds the study against the one there.

    With ``dense`` the bundle draws masks.
    """
    policy = bundle.parent / "policy.yaml"
    if policy.exists():
        return command_line("study", "check", study, "--policy", policy)
    return command_line("policy", "init", policy, *(["--segmentation"] if dense else []))


def after_bench(report: Path, policy: Path, bundle: Path) -> str:
    """The command that judges a report and records the verdict."""
    return command_line("gate", report, "--policy", policy, "--bundle", bundle)


def _word(word: object) -> str:
    """A path that begins like an option is written as a path."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _free(path: Path, ending: str) -> Path:
    """A sibling of ``path`` that is not there yet, called like it and ``ending``."""
    stem, dot, suffix = ending.partition(".")
    names = (f"{path.name}{stem}{number}{dot}{suffix}" for number in ["", *(f"-{n}" for n in range(2, 1000))])
    return next(found for name in names if not (found := path.parent / name).exists())
