"""The loss: against the plain formula, and every length has its own part in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.embedding.nested_loss import NestedLoss
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.runtime.errors import InputError


def pairs(width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, width, generator=generator), torch.randn(6, width, 2, 2, generator=generator)


def scaled_distances(rows: Tensor) -> Tensor:
    distances = torch.cdist(rows, rows)
    return distances / (distances.sum() / (len(rows) * (len(rows) - 1)))


def test_it_is_the_formula_at_the_top_of_its_file() -> None:
    options = EmbeddingDistillation(length=(2, 5), direction=0.7, relations=1.3)
    loss, student, teacher = NestedLoss(5, 3, options), pairs(5, 0), pairs(3, 1)
    expected = 0.0
    for head, ours, theirs in zip((loss.image_map, loss.place_map), student, teacher, strict=True):
        z, t = (x if x.ndim == 2 else x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (ours, theirs))
        for length in (2, 5):
            predicted = z[:, :length] @ head.weight[:, :length].T + head.bias
            direction = 1 - functional.cosine_similarity(predicted, t).mean()
            relation = functional.huber_loss(scaled_distances(z[:, :length]), scaled_distances(t))
            expected = expected + (0.7 * direction + 1.3 * relation) / 2
    torch.testing.assert_close(loss(student, teacher), torch.as_tensor(expected), rtol=1e-4, atol=1e-5)


def test_an_embedding_that_is_the_teachers_has_no_loss_of_relations() -> None:
    loss, teacher = NestedLoss(4, 4, EmbeddingDistillation(length=(4,), direction=0)), pairs(4, 2)
    assert loss(teacher, teacher).item() < 1e-10
    assert loss(pairs(4, 3), teacher).item() > 0.01


def test_every_length_teaches_its_own_numbers() -> None:
    rows = tuple(part.requires_grad_() for part in pairs(6, 4))
    loss = NestedLoss(6, 3, EmbeddingDistillation(length=(2, 4)))
    loss((rows[0], rows[1]), pairs(3, 5)).backward()  # type: ignore[no-untyped-call]
    taught = rows[0].grad.abs().sum(0) > 0  # type: ignore[union-attr]
    assert taught.tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"length": (32, 16)}, "name them ascending"), ({"direction": 0, "relations": 0}, "nothing is learned")],
)
def test_options_that_say_nothing_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        EmbeddingDistillation(**options)  # type: ignore[arg-type]
