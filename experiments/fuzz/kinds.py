"""What is fuzzed: for each kind of file its seeds, its mutations, its command and what that may answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import mutate_bundle
import mutate_bytes
import mutate_dicom
import mutate_raster
import mutate_text
import seed_files
import seed_model

Exits = frozenset[int]
_GATE_OUTPUTS = ("junit.xml", "markdown.md", "sarif.json")
_SPLIT = "split.csv"


class Place(NamedTuple):
    """Where a run keeps things: its own folder, and the real images that may be seeds."""

    work: Path
    shared: Path | None


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        mutants: of a full run.
        seeds: what is damaged.
        damage: one mutant of a seed.
        arguments: of the command for mutant ``n`` at a path.
        exits: codes with which the command may end.
        file: name of mutant ``n`` within the working folder.
        together: how many mutants one command may read.
        outputs: files in the working folder that the command may write unless it refuses its input.
    """

    mutants: int
    seeds: Callable[[Place], list[seed_files.Seed]]
    damage: Callable[[bytes, random.Random], bytes]
    arguments: Callable[[Place, int, list[Path]], list[str]]
    exits: Exits
    file: Callable[[int], str]
    together: int = 1
    outputs: tuple[str, ...] = ()


def mutant(kind: str, number: int, seed: int, seeds: list[seed_files.Seed]) -> bytes:
    """Mutant ``number`` of a kind: the same bytes for the same seed and seed files."""
    choose = random.Random(f"{seed}:{kind}:{number}")  # noqa: S311 - not for secrets
    return KINDS[kind].damage(choose.choice(seeds)[1], choose)


def prepare(place: Place) -> None:
    """Write what the commands need beside the mutants."""
    place.work.mkdir(parents=True, exist_ok=True)
    bundle = place.work / "model.medfm"
    if not bundle.is_file():
        seed_model.write_model(bundle)
        seed_model.write_gate(place.work, bundle)
        seed_model.write_study(place.work / "study")
        (place.work / "image.png").write_bytes(seed_files.raster(seed_files.grey(), "PNG"))


def _run(place: Place, _: int, paths: list[Path]) -> list[str]:
    return ["run", str(place.work / "model.medfm"), *map(str, paths), "--threads", "1", "--json"]


def _use_bundle(place: Place, number: int, paths: list[Path]) -> list[str]:
    if number % 2:
        return ["inspect", str(paths[0]), "--verify", "--json"]
    return ["run", str(paths[0]), str(place.work / "image.png"), "--threads", "1", "--json"]


def _judge_by(place: Place, _: int, paths: list[Path]) -> list[str]:
    return _gate(place, place.work / "report.json", paths[0])


def _judge(place: Place, _: int, paths: list[Path]) -> list[str]:
    return _gate(place, paths[0], place.work / "policy.yaml")


def _gate(place: Place, report: Path, policy: Path) -> list[str]:
    outputs = [part for name in _GATE_OUTPUTS for part in (f"--{name.partition('.')[0]}", str(place.work / name))]
    return ["gate", str(report), "--policy", str(policy), "--accept-changed-policy", *outputs, "--json", "--quiet"]


def _compress(place: Place, _: int, paths: list[Path]) -> list[str]:
    nowhere = ["--study", str(place.work / "nowhere"), "--out", str(place.work / "none")]
    return ["compress", str(paths[0]), *nowhere, "--json", "--quiet"]


def _use_study(place: Place, number: int, _: list[Path]) -> list[str]:
    study, quiet = str(place.work / "study"), ("--json", "--quiet")
    if number % 2:
        return ["study", "split", study, "--out", str(place.work / _SPLIT), "--val", "0.3", "--test", "0.3", *quiet]
    return ["study", "check", study, *quiet]


def _content(name: str) -> Callable[[Place], list[seed_files.Seed]]:
    return lambda place: [(name, (place.work / name).read_bytes())]


def _recipes(_: Place) -> list[seed_files.Seed]:
    examples = Path(__file__).resolve().parents[2] / "examples"
    return [(path.name, path.read_bytes()) for path in sorted(examples.glob("*.yaml")) if "policy" not in path.name]


def _table(place: Place) -> list[seed_files.Seed]:
    """The table of the study, kept apart: the one in its folder is the mutant."""
    kept = place.work / "cases.csv"
    if not kept.is_file():
        kept.write_bytes((place.work / "study" / "cases.csv").read_bytes())
    return [("cases.csv", kept.read_bytes())]


KINDS: Mapping[str, Kind] = {
    "bundle": Kind(
        1000,
        _content("model.medfm"),
        mutate_bundle.damage_bundle,
        _use_bundle,
        frozenset({0, 2, 4}),
        lambda n: f"{n}.medfm",
    ),
    "policy": Kind(
        600,
        _content("policy.yaml"),
        mutate_text.damage_yaml,
        _judge_by,
        frozenset({0, 1, 2, 3}),
        lambda n: f"{n}.yaml",
        outputs=_GATE_OUTPUTS,
    ),
    "report": Kind(
        600,
        _content("report.json"),
        mutate_text.damage_json,
        _judge,
        frozenset({0, 1, 2, 3}),
        lambda n: f"{n}.json",
        outputs=_GATE_OUTPUTS,
    ),
    "recipe": Kind(300, _recipes, mutate_text.damage_yaml, _compress, frozenset({2}), lambda n: f"{n}.yaml"),
    "study": Kind(
        500,
        _table,
        mutate_text.damage_csv,
        _use_study,
        frozenset({0, 2}),
        lambda _: "study/cases.csv",
        outputs=(_SPLIT,),
    ),
    "raster": Kind(
        20_000,
        lambda place: seed_files.raster_seeds(place.shared),
        lambda data, choose: mutate_bytes.mutated(data, choose, mutate_raster.AWARE),
        _run,
        frozenset({0, 4}),
        lambda n: f"{n}.img",
        together=50,
    ),
    "dicom": Kind(
        50_000,
        lambda place: seed_files.dicom_seeds(place.shared),
        lambda data, choose: mutate_bytes.mutated(data, choose, mutate_dicom.AWARE),
        _run,
        frozenset({0, 4}),
        lambda n: f"{n}.dcm",
        together=50,
    ),
}
