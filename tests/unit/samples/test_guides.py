"""The guides are true: what they link to, call and apply is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GUIDES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()

guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)


def blocks(guide: Path) -> str:
    """What a person would copy: code blocks, and code within sentences."""
    text = guide.read_text()
    return "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])


@guides
def test_every_link_leads_to_a_file(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", guide.read_text())
    missing = [link for link in links if "://" not in link and not (guide.parent / link).exists()]
    assert missing == []


@guides
def test_every_target_of_make_exists_and_is_in_its_help(guide: Path) -> None:
    for target in re.findall(r"\bmake ([a-z][a-z-]*)", blocks(guide)):
        assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target


@guides
def test_every_file_of_the_repository_that_is_named_exists(guide: Path) -> None:
    named = re.findall(r"(?<![\w./-])((?:samples|charts|docs|tests)/[\w./-]+)", blocks(guide))
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_the_readme_shows_both_commands_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("make demo") < text.index("make test") < text.index("## Install")


def test_every_licence_the_readme_names_is_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert "GNU AFFERO GENERAL PUBLIC LICENSE" in (ROOT / "trainer-image" / "LICENSE").read_text()[:200]
