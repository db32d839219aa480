"""Deaths, outages and refusals: nothing is lost, nothing is applied twice, and the report says what is the matter."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumer_process import JPEG, Bench, Consumer, annotation, wait_for
from workload import uninterrupted, workload

from azaion_api.annotation_ingest import OnMissingOffsets, Tls
from azaion_api.report import IngestReport
from azaion_consumer.messages import encode_created

pytestmark = pytest.mark.slow


def connected(report: IngestReport) -> bool:
    return report.connected.status


def wait_for_reason(consumer: Consumer, reason: str, timeout_s: float = 60.0) -> str:
    """The sentence of Connected once it is False for that reason."""
    report = consumer.wait_for_report(
        f"Connected False, {reason}", lambda r: (r.connected.status, r.connected.reason) == (False, reason), timeout_s
    )
    return report.connected.message


def wait_for_storage(consumer: Consumer, reason: str) -> str:
    """The sentence of StorageWritable once it has that reason."""
    report = consumer.wait_for_report(f"StorageWritable {reason}", lambda r: r.storage_writable.reason == reason)
    assert report.storage_writable.status is (reason == "Writable")
    return report.storage_writable.message


def committed_offset(bench: Bench) -> int:
    return int(bench.committed().get("offset", -1))


def staged_files(bench: Bench) -> int:
    try:
        return len(os.listdir(bench.root / ".ingest" / "annotations" / "staging"))
    except FileNotFoundError:
        return 0


# Deaths of the consumer


def test_killed_again_and_again_under_load_it_ends_with_the_tree_of_an_undisturbed_one(bench: Bench) -> None:
    entries = workload(3000)
    bench.publish(entries)
    expected = uninterrupted(bench, len(entries))
    end = len(entries) - 1
    choose = random.Random(11)
    kills = 0
    for attempt in range(16):
        # By turns in the middle of staging and right after a commit.
        staged = choose.randrange(1, 200) if attempt % 2 else len(entries) * 3
        before = committed_offset(bench)
        consumer = bench.start()
        wait_for(
            "some progress",
            lambda staged=staged, before=before: staged_files(bench) >= staged or committed_offset(bench) > before,
            interval_s=0.001,
        )
        consumer.kill()
        kills += 1
        if committed_offset(bench) == end:
            break
    last = bench.start()
    bench.wait_until_filed(len(entries), last)
    assert kills >= 5, "the messages were filed too fast to be interrupted"
    assert bench.tree() == expected
    assert len(bench.rejected()) == entries.count(b"poison")
    # The last one may have found everything filed before it was up.
    last.wait_for_report("connected", lambda report: report.connected.status)
    assert last.terminate() == 0


def test_sigterm_under_full_load_finishes_the_batch_and_ends_with_zero(bench: Bench) -> None:
    picture = JPEG + bytes(200_000)
    count = bench.publish(encode_created(annotation(f"x{i}", image=picture)) for i in range(600))
    first = bench.start()
    wait_for("the first batch", lambda: bench.committed().get("offset", -1) >= 0)
    assert first.terminate() == 0
    offset = bench.committed()["offset"]
    assert offset < count - 1, "it was stopped in the middle"
    filed = {name for name in bench.tree() if "/images/" in name}
    assert filed == {f"data/images/x{i}.jpg" for i in range(offset + 1)}
    assert first.reports()[-1].connected.reason == "Stopping"
    assert first.reports()[-1].committed_offset == offset
    second = bench.start()
    bench.wait_until_filed(count, second)


# The broker


def test_a_broker_that_is_restarted_or_killed_is_found_again(bench: Bench) -> None:
    entries = workload(1500)
    bench.publish(entries[:500])
    consumer = bench.start()
    bench.wait_until_filed(500, consumer)
    bench.broker.stop()
    message = wait_for_reason(consumer, "BrokerUnreachable")
    assert f"127.0.0.1:{bench.broker.stream_port}" in message
    bench.broker.start()
    bench.publish(entries[500:1000])
    bench.wait_until_filed(1000, consumer)
    bench.broker.kill()
    bench.broker.start()
    bench.publish(entries[1000:])
    bench.wait_until_filed(1500, consumer)
    assert bench.tree() == uninterrupted(bench, 1500)


def test_a_broker_that_falls_silent_is_noticed(bench: Bench) -> None:
    bench.publish([encode_created(annotation("x"))])
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    bench.broker.pause()
    try:
        wait_for_reason(consumer, "BrokerUnreachable", 60.0)
        # Its connection stays open, so only its silence tells. By now the report may speak of the next try to connect.
        assert "has been silent for" in consumer.log
    finally:
        bench.broker.resume()
    consumer.wait_for_report("a connection", connected)
    bench.publish([encode_created(annotation("y"))])
    bench.wait_until_filed(2, consumer)


def test_missing_credentials_are_named_all_at_once_and_picked_up_when_they_appear(bench: Bench) -> None:
    bench.publish([encode_created(annotation("x"))])
    for key in ("username", "password"):
        (bench.credentials / key).unlink()
    consumer = bench.start()
    message = wait_for_reason(consumer, "CredentialsMissing")
    assert "username is missing, password is missing" in message
    assert str(bench.credentials) in message
    bench.write_credentials()
    bench.wait_until_filed(1, consumer)


def test_a_rotated_password_is_picked_up_without_help_and_never_shown(bench: Bench) -> None:
    bench.publish([encode_created(annotation("x"))])
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    old, new = bench.broker.password, "rotated pässword/#1"
    bench.broker.change_password(new)
    try:
        bench.broker.stop()
        bench.broker.start()
        assert "refuses the user name or password" in wait_for_reason(consumer, "AuthenticationFailed")
        bench.write_credentials()
        bench.publish([encode_created(annotation("y"))])
        bench.wait_until_filed(2, consumer)
    finally:
        bench.broker.change_password(old)
    assert old not in consumer.log
    assert new not in consumer.log


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"port": 1}, "BrokerUnreachable", "127.0.0.1:1 cannot be reached"),
        ({"host": "no-such-host.invalid"}, "BrokerUnreachable", "no-such-host.invalid is not known"),
        ({"virtual_host": "elsewhere"}, "VirtualHostRefused", "'elsewhere' does not exist"),
        ({"tls": Tls(enabled=True)}, "BrokerUnreachable", "does this port speak TLS?"),
        ({"tls": Tls(enabled=True, ca_secret_name="ca")}, "TlsFailed", "has no key ca.crt"),
    ],
)
def test_what_keeps_it_from_the_stream_is_said(
    bench: Bench, changes: dict[str, object], reason: str, says: str
) -> None:
    bench.change_stream(**changes)
    consumer = bench.start()
    assert says in wait_for_reason(consumer, reason)
    assert "Traceback" not in consumer.log
    assert consumer.terminate() == 0


def test_a_broker_of_a_private_authority_is_read_over_tls_and_a_stranger_is_not(bench: Bench) -> None:
    bench.publish([encode_created(annotation("x"))])
    bench.change_stream(port=bench.broker.tls_port, tls=Tls(enabled=True))
    stranger = bench.start()
    assert "CERTIFICATE_VERIFY_FAILED" in wait_for_reason(stranger, "TlsFailed")
    assert stranger.terminate() == 0
    bench.change_stream(tls=Tls(enabled=True, ca_secret_name="ca"))
    shutil.copy(bench.broker.authority, bench.credentials / "ca.crt")
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    assert consumer.terminate() == 0


def test_the_amqp_port_instead_of_the_stream_port_is_recognized(bench: Bench) -> None:
    bench.change_stream(port=bench.broker.amqp_port)
    assert "is this the broker's stream port?" in wait_for_reason(bench.start(), "BrokerUnreachable")


def test_a_stream_that_is_made_later_is_read_then(bench: Bench) -> None:
    consumer = bench.start()
    assert f"no stream '{bench.stream}'" in wait_for_reason(consumer, "StreamMissing")
    bench.publish([encode_created(annotation("x"))])
    bench.wait_until_filed(1, consumer)


def test_a_stream_that_was_deleted_and_made_again_is_not_mistaken_for_the_old_one(bench: Bench) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(50))
    consumer = bench.start()
    bench.wait_until_filed(50, consumer)
    bench.delete_stream()
    wait_for_reason(consumer, "StreamMissing")
    bench.publish(encode_created(annotation(f"y{i}")) for i in range(10))
    message = wait_for_reason(consumer, "StreamRecreated")
    assert "ends at offset 9 although offset 49 was filed" in message
    assert "set spec.stream.onMissingOffsets: Continue" in message
    assert consumer.terminate() == 0
    bench.change_stream(on_missing_offsets=OnMissingOffsets.CONTINUE)
    told = bench.start()
    bench.wait_until_filed(60, told)
    assert bench.committed()["offset"] == 9
    assert len(bench.tree()) == 120


def test_a_stream_made_again_that_is_longer_than_the_old_one_is_told_apart(bench: Bench) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(5))
    first = bench.start()
    bench.wait_until_filed(5, first)
    assert first.terminate() == 0
    bench.delete_stream()
    bench.publish(encode_created(annotation(f"y{i}")) for i in range(20))
    second = bench.start()
    assert "holds other messages at offset 4" in wait_for_reason(second, "StreamRecreated")
    assert second.terminate() == 0
    bench.change_stream(on_missing_offsets=OnMissingOffsets.CONTINUE)
    bench.wait_until_filed(25, bench.start())
    assert len(bench.tree()) == 50


def test_an_empty_stream_made_again_is_waited_for_and_then_read_from_its_first_message(bench: Bench) -> None:
    bench.change_stream(on_missing_offsets=OnMissingOffsets.CONTINUE)
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(5))
    consumer = bench.start()
    bench.wait_until_filed(5, consumer)
    bench.delete_stream()
    bench.create_stream()
    assert "is empty although offset 4 was filed" in wait_for_reason(consumer, "StreamRecreated")
    bench.publish([encode_created(annotation("y"))])
    bench.wait_until_filed(6, consumer)


def test_messages_that_retention_removed_before_they_were_filed_are_named(bench: Bench) -> None:
    bench.create_stream(max_length_bytes=2_000_000, stream_max_segment_size_bytes=500_000)
    picture = JPEG + bytes(20_000)
    bench.publish([encode_created(annotation("first", image=picture))])
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    assert consumer.terminate() == 0
    # By and by: published at once they would be few chunks, and the broker removes whole segments, never the newest.
    for begin in range(0, 600, 30):
        bench.publish(encode_created(annotation(f"x{i}", image=picture)) for i in range(begin, begin + 30))
    wait_for("the retention to remove messages", lambda: bench.first_offset() > 10, interval_s=0.2)
    consumer = bench.start()
    message = wait_for_reason(consumer, "OffsetsMissing")
    assert "are no longer in the stream" in message
    found = re.match(r"offsets 1 to (\d+) ", message)
    assert found is not None
    assert consumer.terminate() == 0
    bench.change_stream(on_missing_offsets=OnMissingOffsets.CONTINUE)
    told = bench.start()
    last = "data/images/x599.jpg"
    report = told.wait_for_report("the end", lambda r: r.caught_up.status and (bench.root / last).exists())
    filed = {name for name in bench.tree() if "images/x" in name}
    assert filed == {f"data/images/x{i}.jpg" for i in range(600 - len(filed), 600)}, "everything that was left"
    # The broker's own notes take offsets too: all of them before the last message are counted, or were passed.
    assert report.committed_offset is not None
    notes = report.committed_offset + 1 - 601
    assert 0 <= report.offsets_missing - (600 - len(filed)) <= notes
    assert report.offsets_missing == int(found[1])
    assert "goes on at offset" in told.log


# The volume


@pytest.fixture
def small_volume(bench: Bench) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    root = bench.root.parent / "small"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield root
    bench.close()
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_a_full_disk_stops_at_that_offset_and_goes_on_when_there_is_space(bench: Bench, small_volume: Path) -> None:
    bench.root = small_volume
    filler = small_volume / "somebody-elses-file"
    filler.write_bytes(bytes(10_000_000))
    picture = JPEG + bytes(100_000)
    bench.publish(encode_created(annotation(f"x{i}", image=picture)) for i in range(100))
    consumer = bench.start()
    message = wait_for_storage(consumer, "DiskFull")
    assert "No space left on device" in message
    assert "bytes are free" in message
    report = consumer.wait_for_report("a connection that waits", connected)
    assert report.committed_offset is None or report.committed_offset < 99
    filler.unlink()
    bench.wait_until_filed(100, consumer)
    assert {name for name in bench.tree() if "/images/" in name} == {f"data/images/x{i}.jpg" for i in range(100)}
    wait_for_storage(consumer, "Writable")


def test_a_volume_that_becomes_read_only_is_waited_for(bench: Bench, small_volume: Path) -> None:
    bench.root = small_volume
    bench.publish([encode_created(annotation("x"))])
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    subprocess.run(["mount", "-o", "remount,ro", str(small_volume)], check=True)
    bench.publish([encode_created(annotation("y"))])
    assert "Read-only file system" in wait_for_storage(consumer, "ReadOnly")
    subprocess.run(["mount", "-o", "remount,rw", str(small_volume)], check=True)
    bench.wait_until_filed(2, consumer)


def test_a_tree_of_another_owner_is_said_and_waited_for(bench: Bench) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("running as another user needs root and setpriv")
    for path in (bench.root.parent, *bench.root.parent.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    bench.publish([encode_created(annotation("x"))])
    as_ours = ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "--inh-caps=-all"]
    consumer = bench.start(prefix=as_ours)
    message = wait_for_storage(consumer, "PermissionDenied")
    assert "give the tree to user and group 10001" in message
    os.chown(bench.root, 10001, 10001)
    bench.wait_until_filed(1, consumer)
    assert (bench.root / "data/images/x.jpg").stat().st_uid == 10001


def test_a_second_consumer_of_the_same_tree_is_refused_until_the_first_is_gone(bench: Bench) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(20))
    first = bench.start()
    bench.wait_until_filed(20, first)
    second = bench.start()
    message = wait_for_storage(second, "TreeLocked")
    assert "the AnnotationIngest annotations (pod " in message
    assert "give it directories" in message
    first.kill()
    bench.publish([encode_created(annotation("later"))])
    bench.wait_until_filed(21, second)
