"""Checkpoints are whole, verified, and never without an older one behind them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from azaion_trainer import checkpoints
from azaion_trainer.checkpoints import CheckpointError, CheckpointStore


def state(number: int) -> dict[str, Any]:
    return {"epoch": number, "model": {"weight": torch.full((64, 64), float(number))}, "history": [{"epoch": 1}]}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    saved = CheckpointStore(tmp_path / "checkpoints").save(state(1))
    found = CheckpointStore(tmp_path / "checkpoints").newest().found
    assert found is not None
    assert found.saved.sha256 == saved.sha256
    assert found.state["epoch"] == 1
    assert torch.equal(found.state["model"]["weight"], state(1)["model"]["weight"])


def test_the_digest_beside_it_is_as_sha256sum_reads_it(tmp_path: Path) -> None:
    saved = CheckpointStore(tmp_path).save(state(1))
    assert (tmp_path / "state-000001.pt.sha256").read_text() == f"{saved.sha256}  state-000001.pt\n"
    assert checkpoints.verified_digest(saved.path) == saved.sha256


def test_the_newest_and_one_behind_it_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in range(1, 5):
        store.save(state(number))
    assert names(tmp_path) == ["state-000003.pt", "state-000003.pt.sha256", "state-000004.pt", "state-000004.pt.sha256"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def lose_the_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def empty_the_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text("")


def empty_the_file(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "its digest does not match, so it is truncated or damaged"),
        (flip_a_bit, "its digest does not match, so it is truncated or damaged"),
        (empty_the_file, "its digest does not match, so it is truncated or damaged"),
        (lose_the_digest, "it has no digest, so writing it was interrupted"),
        (empty_the_digest, "it cannot be read"),
    ],
)
def test_a_damaged_one_is_skipped_for_the_one_before_and_the_reason_is_said(
    tmp_path: Path, damage: Any, reason: str
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    damage(store.save(state(2)).path)
    search = CheckpointStore(tmp_path).newest()
    assert search.found is not None
    assert search.found.state["epoch"] == 1
    assert len(search.skipped) == 1
    assert search.skipped[0].startswith(f"state-000002.pt: {reason}")
    assert search.sentence().startswith("resumed from state-000001.pt; skipped state-000002.pt: ")


def test_the_good_one_stays_until_a_new_one_verifies_and_the_damaged_one_goes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    flip_a_bit(store.save(state(2)).path)
    resumed = CheckpointStore(tmp_path)
    resumed.newest()
    resumed.save(state(3))
    assert [name for name in names(tmp_path) if name.endswith(".pt")] == ["state-000001.pt", "state-000003.pt"]


def test_where_nothing_can_be_used_it_says_so(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").newest().sentence() == ""
    flip_a_bit(CheckpointStore(tmp_path).save(state(1)).path)
    search = CheckpointStore(tmp_path).newest()
    assert search.found is None
    assert search.sentence().startswith("no checkpoint could be used, began anew; skipped state-000001.pt")


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    saved = CheckpointStore(tmp_path).save({"epoch": 1, "trap": Trap()})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        checkpoints.load_state(saved.path)
    assert not (tmp_path / "ran").exists()


def test_another_trainers_version_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "STATE_VERSION", 99)
    CheckpointStore(tmp_path).save(state(1))
    monkeypatch.undo()
    assert "another trainer wrote it" in CheckpointStore(tmp_path).newest().skipped[0]


def test_a_full_disk_says_so_and_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    real = Path.open

    def onto_a_full_device(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        # The kernel's own full device answers every write with ENOSPC.
        return real(Path("/dev/full") if mode == "wb" and path.suffix == ".tmp" else path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", onto_a_full_device)
    with pytest.raises(OSError, match="No space left on device") as caught:
        store.save({**state(2), "ballast": torch.zeros(1 << 20)})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    found = CheckpointStore(tmp_path).newest().found
    assert found is not None
    assert found.state["epoch"] == 1
    assert names(tmp_path) == ["state-000001.pt", "state-000001.pt.sha256"]


def test_what_the_disk_does_not_give_back_as_written_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    real = checkpoints._write

    def a_failing_disk(what: Any, file: Any) -> str:
        digest = real(what, file)
        file.flush()
        file.seek(100)
        file.write(b"\xff")
        return digest

    monkeypatch.setattr(checkpoints, "_write", a_failing_disk)
    with pytest.raises(CheckpointError, match="what was read back is not what was written"):
        store.save(state(2))
    assert names(tmp_path) == ["state-000001.pt", "state-000001.pt.sha256"]


def test_another_directorys_newest_is_copied_and_the_other_only_read(tmp_path: Path) -> None:
    other = CheckpointStore(tmp_path / "other")
    other.save(state(1))
    other.save(state(2))
    before = {path: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    mine = CheckpointStore(tmp_path / "mine")
    search = mine.take_over(CheckpointStore(tmp_path / "other"))
    assert search.found is not None
    assert search.found.saved.path == tmp_path / "mine" / "state-000001.pt"
    assert search.found.state["epoch"] == 2
    assert {path: path.read_bytes() for path in (tmp_path / "other").iterdir()} == before
    again = CheckpointStore(tmp_path / "mine").newest().found
    assert again is not None
    assert again.state["epoch"] == 2


def test_what_a_kill_left_half_written_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".state-000001.pt.tmp").write_bytes(b"half")
    CheckpointStore(tmp_path).save(state(1))
    assert names(tmp_path) == ["state-000001.pt", "state-000001.pt.sha256"]
