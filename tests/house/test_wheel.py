"""The wheel holds the tree: all of it, and nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOMS = ("compress", "export", "bench", "data", "runtime")
SCRIPTS = ("experiments/", "experiments/peers/")  # run by hand to write docs/results; no packages, and not in the wheel


def modules(root: Path, room: str) -> set[Path]:
    return {path for path in (root / room).rglob("*.py") if not path.relative_to(root).as_posix().startswith(SCRIPTS)}


def templates(root: Path) -> set[str]:
    return {f"medfm_compress/{path.relative_to(root).as_posix()}" for path in (root / "bench").rglob("*.j2")}


def static_files(root: Path) -> set[str]:
    folder = root / "runtime" / "page" / "static"
    return {f"medfm_compress/{path.relative_to(root).as_posix()}" for path in folder.iterdir()}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_wheel_has_exactly_the_tree_s_modules_and_templates(wheel: Path, root: Path) -> None:
    face = {path.relative_to(root).as_posix() for path in (root / "medfm_compress").rglob("*.py")}
    rooms = {f"medfm_compress/{path.relative_to(root).as_posix()}" for room in ROOMS for path in modules(root, room)}
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    assert packed == {*face, *rooms, *templates(root), *static_files(root), "medfm_compress/py.typed"}


def test_wheel_has_the_templates_of_every_page(wheel: Path, root: Path) -> None:
    packed = {name for name in names(wheel) if name.endswith(".j2")}
    assert {"report.html.j2", "gallery.html.j2", "sensitivity.html.j2"} <= {Path(name).name for name in packed}
    assert packed == templates(root)
    with zipfile.ZipFile(wheel) as archive:
        for name in packed:
            assert archive.read(name) == (root / name.removeprefix("medfm_compress/")).read_bytes()


def test_every_folder_of_modules_is_a_package(root: Path) -> None:
    for top in ("medfm_compress", *ROOMS):
        for path in modules(root, top):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_wheel_carries_licence_entry_point_and_light_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = {Path(name).name: archive.read(name).decode() for name in names(wheel) if ".dist-info/" in name}
    assert "Apache License" in text["LICENSE"]
    assert "medfm-compress = medfm_compress.__main__:main" in text["entry_points.txt"]
    always = [
        line for line in text["METADATA"].splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert always
    assert not any(
        heavy in line
        for line in always
        for heavy in ("torch", "timm", "nncf", "openvino", "scipy", "pylibjpeg-libjpeg")
    )
