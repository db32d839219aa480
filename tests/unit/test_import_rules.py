"""Who may import whom, where the edges are, and that an import does nothing.

The trainer alone imports ultralytics (AGPL-3.0) and torch; the images depend on azaion_api and never on the operator.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "azaion_api": ROOT / "crds/src/azaion_api",
    "azaion_consumer": ROOT / "consumer-image/src/azaion_consumer",
    "azaion_kubectl": ROOT / "operator/kubectl/src/azaion_kubectl",
    "azaion_operator": ROOT / "operator/src/azaion_operator",
    "azaion_trainer": ROOT / "trainer-image/src/azaion_trainer",
}
#: What each package may import of ours.
ALLOWED = {
    "azaion_api": {"azaion_api"},
    "azaion_consumer": {"azaion_api", "azaion_consumer"},
    "azaion_kubectl": {"azaion_api", "azaion_kubectl"},
    "azaion_operator": {"azaion_api", "azaion_operator"},
    "azaion_trainer": {"azaion_api", "azaion_trainer"},
}
TRAINER_ONLY = {"ultralytics", "torch", "torchvision", "onnx", "onnxruntime", "cv2"}
#: Programs of their own within the operator's package.
OTHER_PROGRAMS = {
    "azaion_operator.storage_keeper",
    "azaion_operator.gpu_exporter",
    "azaion_operator.health_check",
    "azaion_operator.installation",
}

EVERY_PACKAGE = pytest.mark.parametrize("package", list(SOURCES))


@dataclass(frozen=True)
class Module:
    """One file of ours; `imports` are full dotted names, also those within functions."""

    name: str
    path: Path
    tree: ast.Module

    @cached_property
    def imports(self) -> set[str]:
        return {name for node in ast.walk(self.tree) for name in imported(node)}

    def imports_package(self, package: str) -> bool:
        return any(name.split(".")[0] == package for name in self.imports)


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative imports hide where a name comes from"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def modules(package: str) -> tuple[Module, ...]:
    root = SOURCES[package]
    return tuple(
        Module(
            ".".join([package, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"),
            path,
            ast.parse(path.read_text(), filename=str(path)),
        )
        for path in sorted(root.rglob("*.py"))
    )


def names(found: Iterator[Module]) -> list[str]:
    return [module.name for module in found]


@EVERY_PACKAGE
def test_a_package_imports_no_other_of_ours_but_azaion_api(package: str) -> None:
    assert len(modules(package)) > 1, f"{SOURCES[package]} holds no modules"
    wrong = {
        (module.name, name)
        for module in modules(package)
        for name in module.imports
        if name.split(".")[0] in set(SOURCES) - ALLOWED[package]
    }
    assert wrong == set()


@pytest.mark.parametrize("library", sorted(TRAINER_ONLY))
def test_only_the_trainer_imports_what_trains(library: str) -> None:
    others = set(SOURCES) - {"azaion_trainer"}
    assert [m.name for package in others for m in modules(package) if m.imports_package(library)] == []


@pytest.mark.parametrize("project", ["crds", "operator", "operator/kubectl", "consumer-image"])
def test_only_the_trainer_depends_on_what_trains(project: str) -> None:
    requirements = ROOT / project / "requirements.txt"
    text = (ROOT / project / "pyproject.toml").read_text() + (requirements.read_text() if requirements.exists() else "")
    declared = {line.strip().strip('",').split("==")[0].split(">")[0].split("[")[0] for line in text.splitlines()}
    assert declared & (TRAINER_ONLY | {"opencv-python-headless", "opencv-python"}) == set()


@pytest.mark.parametrize("library", ["kopf", "kubernetes"])
def test_one_module_of_the_operator_imports(library: str) -> None:
    found = names(m for m in modules("azaion_operator") if m.imports_package(library))
    assert len(found) == 1, f"{library} is imported by {found}; it stays behind one module"


def test_one_module_of_each_operator_program_touches_prometheus() -> None:
    found = set(names(m for m in modules("azaion_operator") if m.imports_package("prometheus_client")))
    assert len(found - OTHER_PROGRAMS) == 1, f"prometheus_client is imported by {sorted(found)}"


@pytest.mark.parametrize("package", ["azaion_operator", "azaion_consumer"])
def test_one_module_of_each_program_reads_the_environment(package: str) -> None:
    found = set(names(m for m in modules(package) if reads_environment(m)))
    assert len(found - OTHER_PROGRAMS) == 1, f"the environment is read by {sorted(found)}"


@pytest.mark.parametrize("package", ["azaion_operator", "azaion_consumer"])
def test_kubernetes_is_spoken_to_by_the_operator_alone(package: str) -> None:
    """Pods report through azaion_api.reporter, which needs no client of Kubernetes."""
    expected = package == "azaion_operator"
    assert any(m.imports_package("kubernetes") for m in modules(package)) == expected


def reads_environment(module: Module) -> bool:
    return bool({"os.environ", "os.getenv"} & module.imports) or any(environment_nodes(module.tree))


def environment_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv", "putenv")
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ):
            yield node


@EVERY_PACKAGE
def test_the_environment_is_not_read_at_import(package: str) -> None:
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules(package)
        for statement in at_import(module.tree.body)
        for node in environment_nodes(statement)
        if isinstance(node, ast.Attribute)
    ]
    assert found == []


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: all but the bodies of functions."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from at_import(statement.body)
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_main_guard(statement):
            yield statement


def is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


#: Imports every module named on the command line and prints what they did beside defining names. An effect counts
#: as ours when the way from it to a line of ours at the top of a module does not lead through an import: what a
#: library does while it is itself imported is its own affair.
PROGRAM = """
import importlib, json, sys, threading

sources, names = sys.argv[1], sys.argv[2:]
found = []
EFFECTS = (
    "open", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.remove",
    "os.rename", "os.putenv", "os.unsetenv", "shutil.", "tempfile.", "signal.", "urllib.", "http.", "thread",
)

def ours():
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return None
        if file.startswith(sources):
            return f"{file[len(sources):]}:{frame.f_lineno}"
        frame = frame.f_back
    return None

def watch(event, arguments):
    if event.startswith(EFFECTS):
        where = ours()
        if where is not None:
            found.append(f"{where} {event} {arguments!r:.80}")

def start_thread(*arguments):
    # Python 3.11 has no audit event for it.
    watch("thread", arguments[1:])
    return start_new_thread(*arguments)

start_new_thread, threading._start_new_thread = threading._start_new_thread, start_thread
sys.addaudithook(watch)
import logging
handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
for name in names:
    importlib.import_module(name)
if (list(logging.getLogger().handlers), logging.getLogger().level) != (handlers, level):
    found.append("logging was set up")
print(json.dumps(found))
"""


def what_importing_does(source: Path, found: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{source.resolve()}/", *found],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(source),
            "HOME": "/nonexistent",
            # Bytecode that is there is read: writing some would be an effect of the import.
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: os.environ[name] for name in ("PYTHONPYCACHEPREFIX",) if name in os.environ},
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    effects: list[str] = json.loads(done.stdout.splitlines()[-1])
    return effects


def importable(package: str) -> list[str]:
    """Modules of the package, without those that take seconds because they import torch at their top."""
    return [
        module.name
        for module in modules(package)
        if not any(
            name.split(".")[0] in TRAINER_ONLY
            for statement in at_import(module.tree.body)
            for name in imported(statement)
        )
    ]


@pytest.mark.parametrize(
    # All that torch and ultralytics do when they are imported takes seconds to follow.
    "package",
    [pytest.param(name, marks=pytest.mark.slow) if name == "azaion_trainer" else name for name in SOURCES],
)
def test_importing_every_module_does_nothing(package: str) -> None:
    """No connection, no file, no thread, no process, no change of logging or of the environment."""
    assert what_importing_does(SOURCES[package].parent, importable(package)) == []


def test_a_module_that_does_something_when_imported_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(
        "import logging, socket, threading\n\n\ndef later():\n    open('/etc/hostname')\n"
    )
    (tmp_path / "loud.py").write_text(
        "import quiet, socket, threading\n\n"
        "quiet.later()\n"
        "socket.socket()\n"
        "threading.Thread(target=len, args=('',)).start()\n"
    )
    assert what_importing_does(tmp_path, ["quiet"]) == []
    effects = what_importing_does(tmp_path, ["loud"])
    assert [effect.split()[0] for effect in effects] == ["quiet.py:5", "loud.py:4", "loud.py:5"]


def test_only_the_trainer_has_modules_that_import_torch_at_their_top() -> None:
    assert [name for package in SOURCES if package != "azaion_trainer" for name in left_out(package)] == []


def left_out(package: str) -> list[str]:
    return sorted({module.name for module in modules(package)} - set(importable(package)))
