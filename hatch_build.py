"""The build hook: compiles the gateway's hot path with mypyc where there is a C compiler; elsewhere it is interpreted.

Python runs the very same files either way (docs/decisions/0006-compiled-hot-path.md). ``MAINSTAY_PURE=1`` leaves the
compiling out; an editable installation always does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOT = {
    "core": "call ids order progress room usage",
    "wire": "dialect json_edit openai_chat openai_chat_reply sse surrogates",
    "access": "authenticate hold pool purse rules waiting",
    "ledger": "frames journal recording segment",
    "upstream": "ask breaker gate http http_client http_connection http_heads http_source http_target",
    "gateway": "active admit attempt cache cache_recording content identify pipeline record resolve retry routed stream target",
    "edge": "door http http_chunked http_connection http_exchange http_head http_incoming model_api status",
}
"""By room, the files on the path of every call. Not among them: what defines msgspec's structs (it needs annotations that
compiled classes do not keep), and what has asynchronous generators (mypyc has none)."""

_OPTIONS = ("--strict-optional", "--ignore-missing-imports", "--follow-imports=silent", "--no-warn-no-return")


class Compile(BuildHookInterface):  # pyright: ignore[reportMissingTypeArgument]
    """What hatchling calls before it packs a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to the wheel, which is then one for this platform."""
        if version == "editable" or os.environ.get("MAINSTAY_PURE"):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="mainstay-")
        try:
            built = compiled(Path(self.root), Path(self._folder.name))
        except (Exception, SystemExit):
            traceback.print_exc()
            print("mainstay: the hot path could not be compiled; it will be interpreted, and slower", file=sys.stderr)
            return
        build_data["force_include"].update({str(path): name for name, path in built.items()})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()


def compiled(root: Path, folder: Path) -> dict[str, Path]:
    """Compile the hot path into ``folder``; each module's path within the wheel, and its file."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    before = Path.cwd()
    os.chdir(root)  # mypy names modules by their paths from here
    try:
        sources = [f"mainstay/{room}/{name}.py" for room, names in HOT.items() for name in names.split()]
        options = [*_OPTIONS, f"--cache-dir={folder / 'cache'}"]
        extensions = mypycify(
            [*options, *sources],
            opt_level="2",
            debug_level="0",
            multi_file=True,
            group_name="mainstay",
            target_dir=str(folder / "c"),
        )
        command = build_ext(Distribution({"name": "mainstay", "packages": [], "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
        command.parallel = os.cpu_count() or 1
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    library = folder / "lib"
    return {str(path.relative_to(library)): path for path in sorted(library.rglob("*")) if path.is_file()}
