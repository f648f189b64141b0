"""The wheel carries all that an installed package needs, and nothing else."""

import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

# Where the folders of the repository are in the wheel.
PLACES = {
    "src/durable_adapter": "durable_adapter",
    "migrations": "durable_adapter/migrations",
    "examples/legacy_sidekiq_style": "durable_adapter/_examples/legacy_sidekiq_style",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from this checkout, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("durable_adapter-*.whl")
    with ZipFile(built) as archive:
        return archive.namelist()


def files_of(folder: str) -> list[Path]:
    """The files of a folder, except those that Python and the tools write beside them."""
    files = (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file())
    return [file for file in files if not any(part.startswith((".", "__pycache__")) for part in file.parts)]


@pytest.mark.parametrize(("folder", "place"), PLACES.items())
def test_the_wheel_contains_every_file_of_a_folder(wheel: list[str], folder: str, place: str):
    files = files_of(folder)
    assert files, f"{folder} is empty"
    assert {f"{place}/{file.as_posix()}" for file in files} - set(wheel) == set()


def test_the_wheel_contains_nothing_else(wheel: list[str]):
    strangers = [name for name in wheel if not name.startswith("durable_adapter/") and ".dist-info/" not in name]
    assert strangers == []


def test_the_wheel_tells_type_checkers_and_lawyers(wheel: list[str]):
    assert "durable_adapter/py.typed" in wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def our_entry_points() -> list[EntryPoint]:
    return list(distribution("durable-adapter").entry_points)


@pytest.mark.parametrize("point", our_entry_points(), ids=lambda point: f"{point.group}:{point.name}")
def test_every_entry_point_leads_somewhere(point: EntryPoint):
    found = point.load()
    assert inspect.ismodule(found) if point.group == "pytest11" else callable(found)


def test_the_command_is_an_entry_point():
    assert ("console_scripts", "durable-adapter") in {(point.group, point.name) for point in our_entry_points()}
