"""A teacher answers on each image by itself, and always alike; one that does not is refused when it is opened.

Batch normalisation by the batch's own statistics, or a mean over a batch, makes an answer depend on its neighbours, so
that cached answers depend on the order of cases; dropout that is left on makes it depend on chance. Both show from
outside, for any kind of teacher: a batch as large as any that it will be asked for is answered in two orders, and some
of its images alone, twice. So a change that only the fifth image of a batch sees, or only a batch of ten, shows too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medfm_compress.compress.networks.inputs import with_columns
from medfm_compress.compress.teachers.teacher import Teacher, batch_of
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.golden_columns import golden_columns
from medfm_compress.runtime.task import Task

_ROUNDING = 1e-3  # of the largest logit: float32 in another order of summation, over a deep network
_COARSE = 0.05  # where a number has 8 bits, a last bit that flips goes a long way
_SAME = 1e-6  # probabilities nearer than this are the same; their log-odds may not be, near 0 and 1
_COARSE_SAME = 0.02


def check_steady(teacher: Teacher) -> None:
    """Ask the teacher for the same images together, in the other order, and some of them alone, twice.

    Raises:
        ModelError: its answers differ, or it cannot answer on an image alone.
    """
    count, name = batch_of(teacher.card.task), teacher.card.name
    columns = golden_columns(teacher.card.told, count)
    images = with_columns(
        probe_images(teacher.card.spec.shape, count),
        {name: torch.from_numpy(values) for name, values in columns.items()},
    )
    backwards = torch.arange(count).flip(0)
    rows = [0, count // 2, count - 1]  # asked by themselves: a whole batch would take as long as a study
    try:
        alone, again = (torch.cat([teacher.answer(images[row : row + 1]).logits for row in rows]) for _ in range(2))
        together, turned = teacher.answer(images).logits, teacher.answer(images[backwards]).logits.flip(0)
    except ModelError:
        return  # logits that are not finite: refused whenever it is asked
    except (RuntimeError, ValueError, IndexError) as exc:
        first = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise ModelError(f"{name} cannot answer on {count} images together and on each alone: {first}") from None
    coarse = not teacher.engine.endswith("fp32")
    if _differ(alone, again, teacher.card.task, coarse=coarse):
        raise ModelError(
            f"{name} answers differently when it is asked again (by {_most(alone, again):.2g} of a logit): "
            "something in it is left to chance, such as dropout in training mode; export or save it in evaluation mode"
        )
    for left, right in ((together[rows], alone), (together, turned)):
        if _differ(left, right, teacher.card.task, coarse=coarse):
            raise ModelError(
                f"the answer of {name} on an image depends on the others in its batch (by {_most(left, right):.2g} of "
                "a logit), such as with batch normalisation in training mode or without running statistics; export or "
                "save it in evaluation mode"
            )


def probe_images(shape: tuple[int, ...], count: int) -> Tensor:
    """Images ``[count, channels, height, width]`` in [0, 1] of spec shape ``(1, …)``, unlike in light and contrast."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, *shape[1:], generator=generator)
    contrast, darkest = (torch.tensor(values).repeat(count)[:count] for values in ((1.0, 0.2, 0.5), (0.0, 0.7, 0.1)))
    return noise * contrast.reshape(-1, 1, 1, 1) + darkest.reshape(-1, 1, 1, 1)


def _differ(left: Tensor, right: Tensor, task: Task, *, coarse: bool) -> bool:
    """Whether logits ``[n, labels, …]`` differ by more than rounding explains."""
    scale = max(1.0, float(left.abs().max()))
    near = (left - right).abs() <= (_COARSE if coarse else _ROUNDING) * scale
    apart = (_probabilities(left, task) - _probabilities(right, task)).abs()
    same = (apart <= (_COARSE_SAME if coarse else _SAME)) & ((left - right).abs() <= 1 if not coarse else True)
    return not bool((near | same).all())


def _probabilities(logits: Tensor, task: Task) -> Tensor:
    wide = logits.double()
    return wide.sigmoid() if task.independent else wide.softmax(1)


def _most(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())
