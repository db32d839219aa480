"""Puts azaion_api into the wheel; an editable installation uses the one of the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarryAzaionApi(BuildHookInterface[Any]):
    """A wheel of its own, without a registry that has azaion-api."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            source = Path(self.root).resolve().parents[1] / "crds" / "src" / "azaion_api"
            build_data["force_include"][str(source)] = "azaion_api"
