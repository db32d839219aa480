"""What goes into an image decides whether it is built anew, and an image's way to a node loses nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import images
import pytest
from containerimages import archive, building, catalogue, engines, machine, nodes
from containerimages.archive import OciImage, OciLayer
from containerimages.catalogue import Image, ImageError, Request
from containerimages.engines import BuildOptions

REF = "docker.io/azaion/operator:9.9"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image_of(*layers: bytes) -> OciImage:
    """An image as buildah keeps it: layers as they are, digests all the way."""
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": digest(config), "size": len(config)},
            "layers": [{"digest": digest(layer), "size": len(layer)} for layer in layers],
        }
    ).encode()
    return OciImage(REF, manifest, config, tuple(OciLayer(digest(layer), len(layer)) for layer in layers))


def docker_archive(*layers: bytes) -> BytesIO:
    """What `docker save` writes, with the links and records of old formats between the layers."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as written:
        for layer in layers:
            member = tarfile.TarInfo(f"{digest(layer)[7:]}.tar")
            member.size = len(layer)
            written.addfile(member, BytesIO(layer))
            link = tarfile.TarInfo(f"{digest(layer)[7:20]}/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{digest(layer)[7:]}.tar"
            written.addfile(link)
        record = tarfile.TarInfo("manifest.json")
        record.size = 2
        written.addfile(record, BytesIO(b"[]"))
    out.seek(0)
    return out


def blobs(content: bytes) -> dict[str, bytes]:
    """Everything in an archive, by name."""
    with tarfile.open(fileobj=BytesIO(content)) as opened:
        return {member.name: (opened.extractfile(member) or BytesIO()).read() for member in opened}


# What is built anew


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one image, `thing`, and a cache."""
    root = tmp_path / "repository"
    for name, text in {
        "thing/Containerfile": "FROM scratch\nCOPY thing/main.py /\n",
        "thing/main.py": "print(1)\n",
        "crds/api.py": "API = 1\n",
        "charts/azaion/Chart.yaml": 'version: 9.9\nappVersion: "9.9"\n',
        "tests/images/base/Containerfile": "FROM scratch\n",
        "README.md": "thing\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(catalogue, "ROOT", root)
    monkeypatch.setattr(building, "ROOT", root)
    monkeypatch.setattr(catalogue, "IMAGES", (THING,))
    monkeypatch.setenv("AZAION_CACHE", str(tmp_path / "cache"))
    return root


THING = Image("thing", "thing/Containerfile", ("crds", "thing"), build_bytes=1)


@dataclass
class RecordingEngine:
    """Keeps images by name as docker does, and what each build was given."""

    name: str = "recording"
    place: Path = Path("/")
    kept: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    builds: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    contexts: list[dict[str, bytes]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def storage(self) -> Path:
        return self.place

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None:
        assert (context / containerfile).is_file()
        self.contexts.append(
            {path.relative_to(context).as_posix(): path.read_bytes() for path in context.rglob("*") if path.is_file()}
        )
        self.builds.append((ref, dict(options.arguments)))
        self.kept[ref] = (f"id-{len(self.builds)}", dict(options.labels))

    def identity(self, ref: str) -> str | None:
        return self.kept[ref][0] if ref in self.kept else None

    def label(self, ref: str, name: str) -> str | None:
        return self.kept[ref][1].get(name) if ref in self.kept else None

    def size_bytes(self, ref: str) -> int:
        return 1

    def pull(self, ref: str) -> None:
        self.kept[ref] = ("base-1", {})

    def forget(self, identity: str) -> None:
        self.forgotten.append(identity)

    def remove(self, refs: Sequence[str]) -> None:
        for ref in refs:
            del self.kept[ref]

    def archive_command(self, ref: str) -> list[str]:
        return [sys.executable, "-c", f"import sys; sys.stdout.write({ref!r} * 1000)"]

    def save_command(self, ref: str, path: Path) -> list[str]:
        return [
            sys.executable,
            "-c",
            f"import pathlib; pathlib.Path({str(path)!r}).write_text('oci ' + {ref!r} * 1000)",
        ]


@pytest.fixture
def engine(repository: Path) -> RecordingEngine:
    return RecordingEngine()


REQUEST = Request(("thing",))


def test_an_image_is_built_once_and_then_current(engine: RecordingEngine) -> None:
    assert building.build(engine, REQUEST) == ["docker.io/azaion/thing:9.9"]
    assert building.build(engine, REQUEST) == []


@pytest.mark.parametrize("changed", ["thing/main.py", "thing/Containerfile", "crds/api.py", "thing/new.py"])
def test_an_image_is_built_anew_when_an_input_changed(engine: RecordingEngine, repository: Path, changed: str) -> None:
    building.build(engine, REQUEST)
    with (repository / changed).open("a") as file:
        file.write("# changed\n")
    assert building.build(engine, REQUEST) == ["docker.io/azaion/thing:9.9"]


def test_an_image_is_built_anew_when_a_file_went_or_may_be_run_now(engine: RecordingEngine, repository: Path) -> None:
    building.build(engine, REQUEST)
    (repository / "thing/main.py").chmod(0o755)
    assert len(building.build(engine, REQUEST)) == 1
    (repository / "crds/api.py").unlink()
    assert len(building.build(engine, REQUEST)) == 1


def test_an_image_is_built_anew_on_a_new_base(engine: RecordingEngine) -> None:
    building.build(engine, REQUEST)
    engine.kept[building.PUBLIC_BASE] = ("base-2", {})
    assert len(building.build(engine, REQUEST)) == 1


def test_a_base_made_here_is_taken_before_a_registry_is_asked(engine: RecordingEngine) -> None:
    engine.kept[building.OWN_BASE] = ("own-1", {catalogue.LABEL_INPUTS: building.own_base_hash()})
    building.build(engine, REQUEST)
    assert engine.builds[0][1] == {"BASE_IMAGE": building.OWN_BASE}
    assert building.PUBLIC_BASE not in engine.kept


def test_a_base_that_was_asked_for_and_cannot_be_had_is_an_error(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ref: str) -> None:
        raise ImageError(f"pulling {ref} failed: no such host")

    monkeypatch.setattr(engine, "pull", fail)
    with pytest.raises(ImageError, match=r"pulling example.com/python failed: no such host"):
        building.build(engine, Request(("thing",), base_image="example.com/python"))


def test_what_is_not_an_input_changes_nothing(engine: RecordingEngine, repository: Path) -> None:
    building.build(engine, REQUEST)
    (repository / "README.md").write_text("other\n")
    (repository / "thing/__pycache__").mkdir()
    (repository / "thing/__pycache__/main.pyc").write_bytes(b"x")
    (repository / "thing/thing.egg-info").mkdir()
    (repository / "thing/thing.egg-info/PKG-INFO").write_text("x")
    os.utime(repository / "thing/main.py", (1, 1))
    assert building.build(engine, REQUEST) == []


def test_a_build_sees_its_inputs_and_nothing_else(engine: RecordingEngine) -> None:
    building.build(engine, REQUEST)
    assert engine.contexts == [
        {
            "thing/Containerfile": b"FROM scratch\nCOPY thing/main.py /\n",
            "thing/main.py": b"print(1)\n",
            "crds/api.py": b"API = 1\n",
        }
    ]
    assert engine.builds == [("docker.io/azaion/thing:9.9", {"BASE_IMAGE": building.PUBLIC_BASE})]


def test_the_context_is_gone_after_the_build_and_after_a_failed_one(
    engine: RecordingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise ImageError("no space")

    monkeypatch.setattr(engine, "build", fail)
    with pytest.raises(ImageError, match="no space"):
        building.build(engine, REQUEST)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["images.lock"]


def test_files_of_a_context_differ_in_nothing_but_their_contents(repository: Path) -> None:
    (repository / "thing/main.py").chmod(0o600)
    with catalogue.build_context(catalogue.sources(THING)) as context:
        seen = {(path.stat().st_mode & 0o777, path.stat().st_mtime) for path in context.rglob("*") if path.is_file()}
    assert len(seen) == 1


def test_the_image_that_was_replaced_is_forgotten(engine: RecordingEngine, repository: Path) -> None:
    building.build(engine, REQUEST)
    (repository / "thing/main.py").write_text("print(2)\n")
    building.build(engine, REQUEST)
    assert engine.forgotten == ["id-1"]


def test_another_tag_is_another_image(engine: RecordingEngine) -> None:
    building.build(engine, REQUEST)
    assert building.build(engine, Request(("thing",), tag="dev")) == ["docker.io/azaion/thing:dev"]


def test_an_unknown_image_is_refused_with_those_there_are(engine: RecordingEngine) -> None:
    with pytest.raises(ImageError, match="there is no image thingy; there are thing"):
        building.build(engine, Request(("thingy",)))


def test_a_missing_input_is_named_before_anything_is_built(engine: RecordingEngine, repository: Path) -> None:
    (repository / "thing/Containerfile").unlink()
    with pytest.raises(ImageError, match="thing: thing/Containerfile does not exist"):
        building.build(engine, REQUEST)
    assert engine.kept == {}


def test_too_small_a_disk_is_refused_before_the_build(engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "IMAGES", (Image("thing", "thing/Containerfile", ("thing",), build_bytes=1 << 60),))
    with pytest.raises(ImageError, match=r"building thing needs 1073741824 GiB of disk, / has .* make room"):
        building.build(engine, REQUEST)


def test_a_change_of_our_own_code_needs_little_disk(engine: RecordingEngine, repository: Path) -> None:
    building.build(engine, REQUEST)
    huge = Image("thing", "thing/Containerfile", ("crds", "thing"), build_bytes=1 << 60)
    (repository / "thing/main.py").write_text("print(2)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "IMAGES", (huge,))
        assert len(building.build(engine, REQUEST)) == 1
        (repository / "thing/requirements.txt").write_text("torch==2\n")
        with pytest.raises(ImageError, match="make room"):
            building.build(engine, REQUEST)


def test_the_images_of_the_project_have_what_they_are_made_of() -> None:
    for image in catalogue.IMAGES:
        if image.name != "kube-state-metrics":
            files = {file.target for file in catalogue.sources(image)}
            assert image.containerfile in files


def test_a_machine_s_own_sources_never_reach_the_context(engine: RecordingEngine, tmp_path: Path) -> None:
    with machine.machine_settings(tmp_path) as volumes:
        assert all(volume.endswith(":ro") for volume in volumes)
        assert any(volume.split(":")[1] == "/etc/pip.conf" for volume in volumes)
    assert list(tmp_path.glob("machine-*")) == []


# The way to a node


def test_a_layer_s_snapshot_is_its_chain_id() -> None:
    image = image_of(b"one", b"two", b"three")
    first, second = digest(b"one"), digest(f"{digest(b'one')} {digest(b'two')}".encode())
    third = digest(f"{second} {digest(b'three')}".encode())
    assert list(image.chain_ids().values()) == [first, second, third]


def test_an_archive_names_the_image_and_holds_all_that_its_digests_say() -> None:
    layers = [b"one" * 1000, b"two", b""]
    image, out = image_of(*layers), BytesIO()
    archive.write_oci(image, archive.layers_of_docker_archive(image.layers, docker_archive(*layers)), out)
    found = blobs(out.getvalue())
    (described,) = json.loads(found["index.json"])["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == REF
    assert described["digest"] == image.digest
    assert {name for name in found if name.startswith("blobs/")} == {
        f"blobs/sha256/{hashlib.sha256(content).hexdigest()}" for content in (image.manifest, image.config, *layers)
    }
    for name, content in found.items():
        if name.startswith("blobs/"):
            assert name.endswith(hashlib.sha256(content).hexdigest())


def test_layers_the_node_has_are_left_out() -> None:
    layers = [b"one", b"two", b"three"]
    image, out = image_of(*layers), BytesIO()
    archive.write_oci(image, archive.layers_of_docker_archive(image.layers[2:], docker_archive(*layers)), out)
    found = blobs(out.getvalue())
    assert found[f"blobs/sha256/{hashlib.sha256(b'three').hexdigest()}"] == b"three"
    assert f"blobs/sha256/{hashlib.sha256(b'one').hexdigest()}" not in found


def test_a_layer_that_does_not_come_is_an_error() -> None:
    image = image_of(b"one", b"two")
    with pytest.raises(ImageError, match=f"did not hand out the layers {digest(b'two')}"):
        archive.write_oci(image, archive.layers_of_docker_archive(image.layers, docker_archive(b"one")), BytesIO())


def test_a_layer_of_another_size_is_an_error() -> None:
    image = image_of(b"one")
    with pytest.raises(ImageError, match="holds 5 bytes and should hold 3"):
        archive.write_oci(image, [(image.layers[0], BytesIO(b"other"))], BytesIO())


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "as they are"])
def test_layers_out_of_a_layout_are_what_the_manifest_says(tmp_path: Path, compressed: bool) -> None:
    layers = [b"large" * 100, b"small"]
    image = image_of(*layers)
    directory = tmp_path / "layout"
    (directory / "blobs" / "sha256").mkdir(parents=True)
    written = [gzip.compress(layer) if compressed else layer for layer in layers]
    manifest = json.dumps({"layers": [{"digest": digest(content)} for content in written]}).encode()
    (directory / "index.json").write_text(json.dumps({"manifests": [{"digest": digest(manifest)}]}))
    # The large one is not there: only the small one is wanted.
    for content in (manifest, written[1]):
        (directory / "blobs" / "sha256" / digest(content)[7:]).write_bytes(content)
    found = [(layer, stream.read()) for layer, stream in archive.layers_of_layout(image, image.layers[1:], directory)]
    assert found == [(image.layers[1], b"small")]


@dataclass
class RecordingNode:
    """Takes what it is given, as a node without a way to ask it."""

    name: str = "a node"
    taken: list[bytes] = field(default_factory=list)
    refuses: bool = False

    def ctr(self, arguments: Sequence[str]) -> str | None:
        return None

    def take(self, stream: IO[bytes]) -> None:
        if self.refuses:
            stream.read(10)
            raise ImageError("the node is full")
        self.taken.append(stream.read())

    def link(self, image: OciImage, directories: Mapping[str, Path]) -> None:
        raise AssertionError("nothing to link")


def test_any_engine_s_archive_passes_through_to_the_node(engine: RecordingEngine) -> None:
    building.build(engine, REQUEST)
    node = RecordingNode()
    assert nodes.load(engine, node, REQUEST) == ["docker.io/azaion/thing:9.9"]
    assert node.taken == [b"docker.io/azaion/thing:9.9" * 1000]


def test_what_is_not_built_cannot_be_loaded(engine: RecordingEngine) -> None:
    with pytest.raises(ImageError, match=r"thing:9.9 is not built: run `tests/cluster/images.py build thing`"):
        nodes.load(engine, RecordingNode(), REQUEST)


def test_the_node_s_own_words_tell_why_it_refused(engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    building.build(engine, REQUEST)
    big = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes(8 << 20))"]
    monkeypatch.setattr(engine, "archive_command", lambda _ref: big)
    with pytest.raises(ImageError, match="the node is full"):
        nodes.load(engine, RecordingNode(refuses=True), REQUEST)


def test_an_engine_that_fails_while_packing_is_heard(engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    building.build(engine, REQUEST)
    broken = [sys.executable, "-c", "import sys; sys.stdout.write('half'); sys.exit('storage is damaged')"]
    monkeypatch.setattr(engine, "archive_command", lambda _ref: broken)
    with pytest.raises(ImageError, match="storage is damaged"):
        nodes.load(engine, RecordingNode(), REQUEST)


def test_a_saved_archive_is_whole_or_not_there(
    engine: RecordingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building.build(engine, REQUEST)
    (path,) = nodes.save(engine, tmp_path / "out", REQUEST)
    assert path.read_bytes() == b"oci " + b"docker.io/azaion/thing:9.9" * 1000
    path.unlink()
    half = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('half'); sys.exit('storage is damaged')"
    monkeypatch.setattr(engine, "save_command", lambda _ref, path: [sys.executable, "-c", half, str(path)])
    with pytest.raises(ImageError, match="storage is damaged"):
        nodes.save(engine, tmp_path / "out", REQUEST)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mistake_on_the_command_line_ends_with_a_sentence(
    engine: RecordingEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "engine_named", lambda *_name: engine)
    assert images.main(["build", "thingy"]) == 1
    assert capsys.readouterr().err == "images.py: there is no image thingy; there are thing\n"


def test_an_engine_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImageError, match="`docker info` fails: start docker"):
        engines.engine_named("docker")


def test_the_tag_is_the_chart_s() -> None:
    chart = (catalogue.ROOT / "charts" / "azaion" / "Chart.yaml").read_text()
    assert f"\nappVersion: {catalogue.version()}\n" in chart
    assert catalogue.reference(catalogue.IMAGES[0], "0.1.0") == "docker.io/azaion/operator:0.1.0"
