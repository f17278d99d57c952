"""The simulation of a cluster against what can be worked out by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("psutil")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("scale.fleet")


def costs(fleet: ModuleType, **changed: Any) -> Any:
    free = {"image": 1.0, "unit": 0.0, "start": 0.0, "listing": 0.0, "handing": 0.0, "summing": 0.0, "files": 3}
    sizes = {"photo": 1.0, "index": 2.0, "maps": 3.0, "record": 5.0, "held": 7.0}
    return fleet.Costs(**{**free, **sizes, **changed})


def played(
    fleet: ModuleType, chosen: Any, *, images: int = 1000, cores: int = 10, unit: int = 10, wave: int = 50, deaths: float = 0.0
) -> Any:
    return fleet.simulated(fleet.Fleet(images, cores, unit, wave, deaths), chosen)


def test_without_losses_all_cores_are_busy(fleet: ModuleType) -> None:
    found = played(fleet, costs(fleet))
    assert found.seconds == pytest.approx(1000 / 10)
    assert found.busy == pytest.approx(1)
    assert (found.files, found.index, found.maps, found.records, found.held) == (300, 2000, 3000, 500, 50 * 10 * 7)
    assert found.again == 0


def test_what_the_driver_does_alone_adds_up(fleet: ModuleType) -> None:
    found = played(fleet, costs(fleet, listing=0.01, start=3.0, summing=0.1, unit=0.5))
    # 2 waves of 5 units each core; listing before each, a start in each; 100 units at the end
    assert found.seconds == pytest.approx(2 * (500 * 0.01 + 3 + 5 * 10.5) + 100 * 0.1)
    assert found.listing == pytest.approx(10)


def test_a_wave_waits_for_its_last_unit(fleet: ModuleType) -> None:
    assert played(fleet, costs(fleet), wave=11).seconds == pytest.approx(9 * 20 + 10)  # 9 waves of 11 and one of 1, on 10 cores
    assert played(fleet, costs(fleet), cores=200).seconds == pytest.approx(2 * 10)  # more cores than units


def test_handing_out_may_be_the_limit(fleet: ModuleType) -> None:
    found = played(fleet, costs(fleet, handing=2.0), wave=100)
    assert found.seconds == pytest.approx(99 * 2 + 10)


def test_deaths_cost_what_was_begun_and_a_start(fleet: ModuleType) -> None:
    rate, start, work = 3600 / 50, 5.0, 10.0  # a death in 50 s on average
    found = played(fleet, costs(fleet, start=start), images=400_000, cores=1, wave=40_000, deaths=rate)
    expected = (50 + start) * (2.718281828459045 ** (work / 50) - 1)  # seconds per unit: restarts of an exponential clock
    assert found.seconds / 40_000 == pytest.approx(expected, rel=0.02)
    assert found.again > 0


def test_long_runs_are_scaled_from_their_first_waves(fleet: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = played(fleet, costs(fleet, start=1.0, handing=0.1))
    monkeypatch.setattr(fleet, "PLAYED", 50)
    assert played(fleet, costs(fleet, start=1.0, handing=0.1)).seconds == pytest.approx(whole.seconds)
