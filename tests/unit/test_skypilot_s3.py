"""The bucket through the real s3fs, against moto's S3 on loopback; runs where both are installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder, mounted
from optsweep_tui.dispatch.site import Unreachable
from optsweep_tui.dispatch.sky_mirror import SkyMirror
from optsweep_tui.dispatch.sky_storage import Storage, attempt_file
from optsweep_tui.errors import OptsweepError

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'optsweep[buckets]')")
pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]')")
RUN = "0123456789abcdef0123456789abcdef"
Server = tuple[Any, "subprocess.Popen[bytes]"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A client of a server of its own, with an empty bucket; and the server's process."""
    import boto3  # type: ignore[import-not-found,unused-ignore]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for name, value in (("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_ACCESS_KEY_ID", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        limit = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < limit
                time.sleep(0.1)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client, process
    finally:
        process.kill()
        process.wait()


def test_an_attempt_comes_out_of_a_real_bucket(server: Server, tmp_path: Path) -> None:
    client, _ = server
    storage = Storage("s3://bucket/a/folder", "cloud")
    assert storage.read(mounted.MARK) is None and storage.listing(RUN) == {}
    storage.write(mounted.MARK, b'{"host_id": "ab"}\n')
    assert storage.table(mounted.MARK) == {"host_id": "ab"}
    storage.write(attempt_file(RUN, 1, folder.INTENT), b"{}\n")

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket="bucket", Key=f"a/folder/runs/{RUN}/a1/{name}", Body=data)

    for step in range(1200):  # more than a page of names
        put(mounted.part_name(folder.METRICS, step * 4, 4), b"abc\n")
    stamps = set()
    for seq in range(3):
        put(folder.LEASE, b'{"seq": %d}' % seq)
        stamps.add(storage.listing(RUN)[1][folder.LEASE].stamp)
    assert len(stamps) == 3, "a lease that moves is seen to"
    (tmp_path / "runs" / RUN / "a1").mkdir(parents=True)
    mirror = SkyMirror(tmp_path / "runs", tmp_path / "offsets.json", storage, "cloud")
    assert mirror.bring((RUN, 1), storage.listing(RUN)[1])
    assert (tmp_path / "runs" / RUN / "a1" / folder.METRICS).read_bytes() == b"abc\n" * 1200
    put(folder.EXIT, b'{"reason": "finished"}\n')
    assert mirror.ended((RUN, 1), storage.listing(RUN)[1])
    put("ckpt/step-5", b"12")
    assert storage.drop_checkpoints(RUN) == (1, 2)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(6 << 20))
    storage.bring("data/x/train.bin", large)
    assert client.head_object(Bucket="bucket", Key="a/folder/data/x/train.bin")["ContentLength"] == 6 << 20


def test_a_bucket_that_is_not_there_and_one_that_does_not_answer_are_told_apart(server: Server) -> None:
    _, process = server
    with pytest.raises(OptsweepError, match="bucket does not exist") as refused:
        Storage("s3://another-bucket/x", "cloud").write("y", b"z")
    assert not isinstance(refused.value, Unreachable)
    process.kill()
    process.wait()
    with pytest.raises(Unreachable):
        Storage("s3://bucket/x", "cloud").read(mounted.MARK)
