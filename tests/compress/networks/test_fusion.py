"""Networks of images and columns: built, saved, called, tapped and pruned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.features import offered, tapped
from medfm_compress.compress.networks.fusion.network import FusionNetwork, with_fusion
from medfm_compress.compress.networks.heads import backbone_names
from medfm_compress.compress.networks.inputs import Columned
from medfm_compress.compress.networks.model import Model, load_model, save_model
from medfm_compress.compress.networks.torch_session import TorchSession
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.prune import prune
from medfm_compress.runtime.columns import CategoricalColumn, NumericColumn
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("healthy", "ill"))
AGE = NumericColumn(name="age", unit="years", minimum=0, maximum=120, mean=50, standard_deviation=20)
SEX = CategoricalColumn(name="sex", categories=("F", "M"), missing="category")


def fused(method: FusionMethod, name: str = "mobilenetv3_small_050") -> Model:
    torch.manual_seed(0)
    plain = build_model(name, TASK, size_px=32, colour="grey")
    model = with_fusion(plain, (AGE, SEX), method, hidden=8)
    for parameter in model.module.fusion.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(cases: int = 3) -> Columned:
    torch.manual_seed(1)
    sexes = torch.eye(3)[torch.arange(cases) % 3]
    return Columned(torch.rand(cases, 1, 32, 32), {"sex": sexes, "age": torch.randn(cases, 1)})


@pytest.mark.parametrize("method", ["concatenation", "film"])
@torch.no_grad()
def test_the_answer_depends_on_image_and_columns_by_their_names(method: FusionMethod) -> None:
    model, given = fused(method), inputs()
    logits = model.module(given)
    assert logits.shape == (3, 2)
    assert torch.equal(model.module(given.images, given.columns["age"], given.columns["sex"]), logits)
    older = Columned(given.images, {**given.columns, "age": given.columns["age"] + 1})
    brighter = Columned(given.images + 1, given.columns)
    assert not torch.allclose(model.module(older), logits) and not torch.allclose(model.module(brighter), logits)


@pytest.mark.parametrize("method", ["concatenation", "film"])
@torch.no_grad()
def test_film_is_the_formula_and_concatenation_too(method: FusionMethod) -> None:
    network, given = fused(method).module, inputs()
    assert isinstance(network, FusionNetwork)
    head, h = network.fusion, network.encoder(given.images)
    c = torch.cat((given.columns["age"], given.columns["sex"]), 1)
    u = head.branch(c)
    if method == "film":
        h = (1 + head.scale(u)) * h + head.shift(u)
    z = head.classifier(h if method == "film" else torch.cat((h, u), 1))
    torch.testing.assert_close(network(given), z)


@torch.no_grad()
def test_a_saved_network_keeps_the_order_of_its_columns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = build_model("mobilenetv3_small_050", TASK, size_px=32, colour="grey")
    model, given = with_fusion(plain, (SEX, AGE), "concatenation", hidden=8), inputs()
    for parameter in model.module.fusion.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.3)
    loaded = load_model(save_model(model, tmp_path / "model"))
    assert loaded.columns == (SEX, AGE) and list(loaded.module.column_widths) == ["sex", "age"]  # type: ignore[arg-type]
    assert torch.equal(loaded.module(given), model.module(given))


def test_lacking_columns_are_refused() -> None:
    module = fused("film").module
    with pytest.raises(InputError, match="takes the columns age, sex"):
        module(torch.rand(1, 1, 32, 32))
    with pytest.raises(InputError, match="the column 'sex'; got age"):
        module(Columned(torch.rand(1, 1, 32, 32), {"age": torch.zeros(1, 1)}))


@torch.no_grad()
def test_saved_and_loaded_and_run_as_a_session(tmp_path: Path) -> None:
    model, given = fused("film"), inputs()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.columns == (AGE, SEX) and again.architecture == model.architecture
    assert torch.equal(again.module(given), model.module(given))
    session = TorchSession(again, "cpu", 1)
    assert session.input_names == ("image", "age", "sex")
    fed = {"image": given.images.numpy(), **{name: rows.numpy() for name, rows in given.columns.items()}}
    assert torch.equal(torch.from_numpy(session.run(fed)["logits"]), model.module(given))


def test_a_card_whose_columns_are_not_the_network_s(tmp_path: Path) -> None:
    save_model(fused("film"), tmp_path)
    card = msgspec.json.decode((tmp_path / "model.json").read_bytes())
    card["columns"] = card["columns"][::-1]
    (tmp_path / "model.json").write_bytes(msgspec.json.encode(card))
    with pytest.raises(ModelError, match="is described with the columns"):
        load_model(tmp_path)


def test_a_network_without_columns_is_written_as_before(tmp_path: Path) -> None:
    save_model(build_model("mobilenetv3_small_050", TASK, size_px=32, colour="grey"), tmp_path)
    card = msgspec.json.decode((tmp_path / "model.json").read_bytes())
    assert card["schema_version"] == 2 and "columns" not in card and "fusion" not in card["architecture"]


def test_features_are_the_encoder_s_and_the_head_is_the_fusion() -> None:
    model, given = fused("concatenation"), inputs(1)
    assert set(offered(model.module, model.spec.shape)) == {"embedding", "map", "attention"}
    outputs = tapped(model.module, ("embedding",))(given)
    torch.testing.assert_close(outputs.logits, model.module(given))
    torch.testing.assert_close(outputs.features["embedding"], model.module.encoder(given.images))  # type: ignore[operator]
    assert all(name.startswith("encoder.") for name in backbone_names(model.module))


def test_columns_twice_and_for_masks() -> None:
    with pytest.raises(ModelError, match="takes the columns age, sex already"):
        with_fusion(fused("film"), (AGE,), "film")
    dense = replace(fused("film"), columns=(), task=Task(kind="segmentation", labels=("lesion",)))
    with pytest.raises(ModelError, match="one answer an image"):
        with_fusion(dense, (AGE,), "film")


@pytest.mark.parametrize("method", ["concatenation", "film"])
@torch.no_grad()
def test_pruning_narrows_the_encoder_and_what_joins_it_and_leaves_the_columns_alone(
    tmp_path: Path, method: FusionMethod
) -> None:
    model = fused(method, "resnet10t")
    done = prune(model, PruningGoal(macs=0.6, importance="magnitude", allocation="uniform"))
    small, given = done.model.module, inputs()
    assert isinstance(small, FusionNetwork) and isinstance(model.module, FusionNetwork)
    assert small.embedding < model.module.embedding == 512
    assert small.fusion.branch[0].weight.shape == model.module.fusion.branch[0].weight.shape
    save_model(done.model, tmp_path)
    assert torch.equal(load_model(tmp_path).module(given), small(given))
