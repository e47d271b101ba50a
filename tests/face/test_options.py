"""Options that are made of a settings struct: names, types, ranges, units, and one sentence for what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import typer
from msgspec import Meta
from typer.testing import CliRunner

from medfm_compress.cli.app import build_app
from medfm_compress.cli.command import command
from medfm_compress.cli.options import settings_of
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """What is within.

    Attributes:
        epochs: passes.
        mode: of the passes.
    """

    epochs: Annotated[int, Meta(ge=1, le=9)] = 3
    mode: Literal["fast", "slow"] = "fast"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        model: name of it.
        latency_ms: of one image.
        budget_s: longest.
        size_mb: of a file.
        ready: is it on.
        eager: is it off.
        names: of ``things``.
        weights: of terms.
        colour: of the image.
        out: where to.
        hidden: not here.
        inner: how.
    """

    model: Annotated[str, Meta(extra={"argument": True})]
    latency_ms: Annotated[float, Meta(gt=0, extra={"unit": "ms", "option": "max-latency"})] | None = None
    budget_s: Annotated[float, Meta(ge=0, extra={"unit": "s"})] = 300.0
    size_mb: Annotated[float, Meta(gt=0, extra={"unit": "MB"})] = 6.0
    ready: bool = True
    eager: bool = False
    names: Annotated[tuple[Literal["a", "b"], ...], Meta(extra={"option": "name"})] = ()
    weights: Annotated[dict[str, float], Meta(extra={"option": "weight", "lone": "1"})] = {}
    colour: Literal["grey", "rgb"] | None = None
    out: Path | None = None
    hidden: Annotated[int, Meta(extra={"option": ""})] = 7
    inner: Inner = Inner(epochs=5)

    def __post_init__(self) -> None:
        check(self)
        if self.eager and not self.ready:
            raise InputError("eager is set, and ready is not; give one")


def run(*arguments: str, defaults: dict[str, Any] | None = None) -> Any:
    built: list[Settings] = []

    @command(defaults=defaults or {}, skip=("inner.mode",))
    def act(settings: Settings, study: Annotated[str, typer.Option(help="What on.")] = "s") -> None:
        """Act."""
        built.append(settings)

    app = typer.Typer(rich_markup_mode=None)
    app.command()(act)
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, InputError):
        raise result.exception
    return built[0] if built else result


def test_nothing_given_is_the_struct_itself() -> None:
    assert run("net") == Settings(model="net")
    assert run("net", defaults={"inner.epochs": 8, "ready": False}) == Settings(
        model="net", ready=False, inner=Inner(epochs=8)
    )


def test_every_kind_of_value() -> None:
    words = (
        "net --max-latency 0.01s --budget 5min --size 500kB --no-ready --name a --name b --weight kl=2 --weight dist"
    )
    settings = run(*words.split(), "--colour", "rgb", "--out", "x", "--epochs", "9")
    assert settings == Settings(
        model="net",
        latency_ms=10.0,
        budget_s=300.0,
        size_mb=0.5,
        ready=False,
        names=("a", "b"),
        weights={"kl": 2.0, "dist": 1.0},
        colour="rgb",
        out=Path("x"),
        inner=Inner(epochs=9),
    )
    assert run("net", "--name", "all").names == ("a", "b")
    assert run("net", "--colour", "auto").colour is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--epochs 10", "--epochs is 10; it must be 1 to 9"),
        ("--epochs two", "--epochs is 'two'; give a whole number"),
        ("--max-latency 0ms", "--max-latency is 0ms; it must be above 0"),
        ("--max-latency soon", "--max-latency is 'soon'; give a number with its unit: a time, e.g. 10ms"),
        ("--budget nan", "--budget is 'nan'; give a number with its unit: a duration, e.g. 90s or 5min"),
        ("--name c", "--name is 'c'; it must be a or b"),
        ("--colour blue", "--colour is 'blue'; it must be grey or rgb"),
        ("--weight kl=1 --weight kl=2", "--weight names 'kl' twice; give it once"),
        ("--no-ready --eager", "--eager is set, and ready is not; give one"),
    ],
)
def test_what_is_refused_is_one_sentence_about_the_option(words: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        run("net", *words.split())


def test_fields_that_are_left_out_are_no_options() -> None:
    names = [setting.option for setting in settings_of(Settings, {}, frozenset({"inner.mode"}))]
    assert "--hidden" not in names and "--mode" not in names
    assert names[0] == "MODEL" and "--max-latency" in names and "--budget" in names
    assert run("net", "--hidden", "3").exit_code == 2


def test_help_has_text_range_default_and_choices() -> None:
    text = " ".join(run("--help").output.split())
    assert "Passes (1 to 9; default: 5)." in text
    assert "Latency of one image (above 0)." in text
    assert "Names of things (a, b, all; may be repeated)." in text
    assert "--ready / --no-ready" in text


def _options() -> list[Any]:
    root: Any = typer.main.get_command(build_app())
    commands = [
        command for entry in root.commands.values() for command in getattr(entry, "commands", {"": entry}).values()
    ]
    return [(command, parameter) for command in commands for parameter in command.params]


def test_every_option_of_every_command_has_a_text_that_no_markup_hides() -> None:
    for command_, parameter in _options():
        assert parameter.help, (command_.name, parameter.name)
        assert not re.search(r"\[[a-z/#@]", parameter.help), parameter.help


def test_every_command_prints_json_and_takes_the_same_flags() -> None:
    flags = {command.name: set() for command, _ in _options()}
    for command_, parameter in _options():
        flags[command_.name] |= set(parameter.opts)
    assert all({"--json", "-q", "-v"} <= names for names in flags.values()), flags


def test_no_option_is_named_twice_in_a_command() -> None:
    names: dict[int, list[str]] = {}
    for command_, parameter in _options():
        names.setdefault(id(command_), []).extend((*parameter.opts, *parameter.secondary_opts))
    for options in names.values():
        assert len(options) == len(set(options)), options
