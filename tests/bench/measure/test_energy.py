"""Energy and GPU memory: counters of a made-up /sys and of a made-up driver."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from medfm_compress.bench.measure import latency as measuring
from medfm_compress.bench.measure.energy import find_counter
from medfm_compress.bench.measure.gpu_memory import gpu_bytes_in_use
from medfm_compress.bench.measure.requests import Reply


def zone(root: Path, path: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    folder = root / "sys/class/powercap" / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


def test_packages_and_their_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    """An Intel server: what contains or repeats a package must not be counted again."""
    first, second = (zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 100) for n in (0, 1))
    memory = zone(tmp_path, "intel-rapl:0/intel-rapl:0:1", "dram", 100)
    others = [
        zone(tmp_path, "intel-rapl:0/intel-rapl:0:0", "core", 100),
        zone(tmp_path, "intel-rapl:2", "psys", 100),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100),
    ]
    counter = find_counter(on_gpu=False, root=tmp_path)
    before = counter.read()
    for file, energy in ((first, 1100), (second, 2100), (memory, 400), *((other, 999_999) for other in others)):
        file.write_text(str(energy))
    assert counter.source == "rapl"
    assert counter.spent_mj(before, counter.read()) == pytest.approx((1000 + 2000 + 300) / 1000)


def test_a_counter_that_wraps_around_goes_on_counting(tmp_path: Path) -> None:
    """An AMD processor has the package alone, in the same folder."""
    energy = zone(tmp_path, "intel-rapl:0", "package-0", 65_532_000_000, 65_532_610_987)
    counter = find_counter(on_gpu=False, root=tmp_path)
    before = counter.read()
    energy.write_text("389013")
    assert counter.spent_mj(before, counter.read()) == pytest.approx(1000.0)


def test_no_counter_says_why(tmp_path: Path) -> None:
    counter = find_counter(on_gpu=False, root=tmp_path)
    assert counter.source.startswith("no RAPL counter")
    assert counter.spent_mj(counter.read(), counter.read()) is None


def test_unreadable_counter_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    read = Path.read_text

    def forbidden(path: Path, *arguments: object, **named: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert "may not be read by this user" in find_counter(on_gpu=False, root=tmp_path).source


def test_nonsense_in_a_counter_is_no_energy(tmp_path: Path) -> None:
    energy = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    counter = find_counter(on_gpu=False, root=tmp_path)
    before = counter.read()
    energy.write_text("not a number")
    assert counter.spent_mj(before, counter.read()) is None
    assert "cannot be read" in find_counter(on_gpu=False, root=tmp_path).source


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A made-up NVML with two GPUs; this process computes on the second."""
    state = SimpleNamespace(energy={0: 5000, 1: 7000}, open=0)
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=300_000_000)
    unknown = SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)
    other = SimpleNamespace(pid=1, usedGpuMemory=9_000_000_000)
    running = {0: [other], 1: [mine, unknown, other]}
    functions = {
        "nvmlInit": lambda: setattr(state, "open", state.open + 1),
        "nvmlShutdown": lambda: setattr(state, "open", state.open - 1),
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": lambda device: running[device],
        "nvmlDeviceGetTotalEnergyConsumption": lambda device: state.energy[device],
    }
    for name, function in functions.items():
        setattr(library, name, function)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return state


def test_gpu_memory_and_energy_are_this_processs_own(driver: SimpleNamespace) -> None:
    assert gpu_bytes_in_use() == 300_000_000
    assert gpu_bytes_in_use(process=12345678) == 0
    counter = find_counter(on_gpu=True)
    before = counter.read()
    driver.energy = {0: 99_000, 1: 7250}
    assert (counter.source, counter.spent_mj(before, counter.read())) == ("nvml", 250.0)
    assert driver.open == 0


def test_driver_that_does_not_start_is_no_figure(driver: SimpleNamespace) -> None:
    library = sys.modules["pynvml"]

    def fails() -> None:
        raise library.NVMLError("driver not loaded")

    library.nvmlInit = fails  # type: ignore[attr-defined]
    assert gpu_bytes_in_use() == 0
    assert "pip install nvidia-ml-py" in find_counter(on_gpu=True).source


def test_missing_binding_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_bytes_in_use() == 0
    assert "pip install nvidia-ml-py" in find_counter(on_gpu=True).source


@pytest.mark.parametrize(
    ("spent", "energy", "source"),
    [
        ((40.0, 60.0), 5.0, "rapl"),
        ((0.0, 0.0), None, "the rapl counter does not move"),
        ((40.0, None), None, "the rapl counter failed"),
    ],
)
def test_energy_of_one_call(spent: tuple[float | None, ...], energy: float | None, source: str) -> None:
    run = measuring._Run.__new__(measuring._Run)
    run._calls = 10
    run._turns = [Reply(energy_mj=value, energy_source="rapl") for value in spent]
    assert run._energy_mj() == energy
    assert run._energy_source() == source
