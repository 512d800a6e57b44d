"""The generated parts of the reference say what the code says."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from mainstay.edge.model_api import ENDPOINTS
from mainstay.settings import Settings
from mainstay.upstream.providers import PROVIDERS
from mainstay.upstream.sim import KINDS
from tests.docs.pages import ROOT, tracked

_OURS = re.compile(r'"(x-(?:mainstay|ratelimit)-[a-z-]+[a-z])"')


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md", "providers.md", "fields.md"])
def test_a_generated_document_is_current(name: str) -> None:
    documents = reference().documents()
    assert set(documents) >= {name}
    there = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert there == documents[name], f"docs/reference/{name} is out of date: run `make docs`"


def test_every_metric_has_a_sentence() -> None:
    for line in reference().metrics().splitlines():
        if line.startswith("| `mainstay_"):
            assert len(line.split("|")[5].strip()) > 10, line


def test_every_fault_of_the_simulator_is_described() -> None:
    page = (ROOT / "docs" / "guide" / "providers.md").read_text(encoding="utf-8")
    missing = [kind for kind in KINDS if f"| `{kind}` |" not in page]
    assert not missing


def test_every_kind_of_provider_has_an_example() -> None:
    page = (ROOT / "docs" / "guide" / "providers.md").read_text(encoding="utf-8")
    missing = [kind for kind in PROVIDERS if f"kind: {kind}" not in page]
    assert not missing


def test_every_endpoint_is_described() -> None:
    page = (ROOT / "docs" / "reference" / "model-api.md").read_text(encoding="utf-8")
    missing = [path for path in [*ENDPOINTS, "/v1/models"] if f"`{path}`" not in page]
    assert not missing


def test_every_header_of_ours_is_described() -> None:
    page = (ROOT / "docs" / "reference" / "model-api.md").read_text(encoding="utf-8")
    page += (ROOT / "docs" / "guide" / "providers.md").read_text(encoding="utf-8")
    known = {
        found for path in tracked(".py") if "mainstay" in path.parts[-3:] for found in _OURS.findall(path.read_text())
    }
    assert len(known) > 10
    assert not [header for header in known if f"`{header}" not in page]


def test_every_setting_is_described() -> None:
    page = (ROOT / "docs" / "guide" / "operating.md").read_text(encoding="utf-8")
    wrong: list[str] = []
    for name, field in Settings.__dataclass_fields__.items():
        row = next((line for line in page.splitlines() if f"`MAINSTAY_{name.upper()}`" in line), None)
        if row is None:
            wrong.append(name)
            continue
        default = field.default
        if isinstance(default, int) and default >= 1 << 20:
            default = f"{default >> 20} MiB"
        elif not isinstance(default, int | float | str) or not default:
            continue
        else:
            default = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        if row.split("|")[2].strip() != default:
            wrong.append(f"{name}: {default}")
    assert not wrong
