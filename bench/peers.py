"""Peers in virtual environments of their own: ``python -m bench.peers [folder]`` makes that of LiteLLM's proxy."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

OUT = Path(__file__).parent / "out"
LITELLM = OUT / "litellm"


def make_litellm(folder: Path) -> None:
    """Install ``litellm[proxy]`` into a new environment. Raises ``CalledProcessError``."""
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "litellm[proxy]"], check=True)


def installed_version(folder: Path, package: str) -> str | None:
    """The version of ``package`` in that environment; None where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        return None
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", asked], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def litellm_config(upstream: int, secret: str) -> str:
    """Its configuration: the same model and upstream, a master key, no database."""
    parameters = {
        "model": "openai/gpt-small",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "upstream",
        "input_cost_per_token": 0.15e-6,
        "output_cost_per_token": 0.60e-6,
    }
    config = {
        "model_list": [{"model_name": "small", "litellm_params": parameters}],
        "general_settings": {"master_key": secret},
        "litellm_settings": {"telemetry": False, "request_timeout": 60},
    }
    return json.dumps(config)  # JSON is YAML


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=LITELLM)
    folder = parser.parse_args().folder
    make_litellm(folder)
    print(f"LiteLLM {installed_version(folder, 'litellm')} is in {folder}")


if __name__ == "__main__":
    main()
