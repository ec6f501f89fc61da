import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from population.errors import InputError
from population.store import Store, file_digest


class Producer:
    """Writes two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights.bin").write_bytes(bytes(range(256)))
        (folder / "note.json").write_text('{"loss": 0.5}')


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_an_entry_is_made_once(store: Store) -> None:
    produce = Producer()
    first = store.once("members", "k1", produce)
    assert first == store.root / "members" / "k1"
    assert store.once("members", "k1", produce) == first
    assert Store(store.root).once("members", "k1", produce) == first
    assert produce.calls == 1
    assert visible(first) == {"weights.bin", "note.json", "manifest.json"}
    assert visible(first.parent) == {"k1"}


def test_keys_and_kinds_are_apart(store: Store) -> None:
    produce = Producer()
    places = {store.once(*place, produce) for place in (("a", "k1"), ("a", "k2"), ("b", "k1"))}
    assert len(places) == produce.calls == 3


def test_the_manifest_holds_the_digests(store: Store) -> None:
    entry = store.once("members", "k1", Producer())
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest == {name: file_digest(entry / name) for name in ("note.json", "weights.bin")}
    # sha256 of the bytes 0, 1, ... 255, from coreutils' sha256sum
    assert manifest["weights.bin"] == "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880"


def test_a_failed_production_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        store.once("members", "k1", fail)
    assert visible(store.root / "members") == set()
    produce = Producer()
    assert visible(store.once("members", "k1", produce)) == {"weights.bin", "note.json", "manifest.json"}
    assert produce.calls == 1


def test_an_interrupted_production_leaves_nothing(store: Store) -> None:
    def interrupt(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.once("members", "k1", interrupt)
    assert visible(store.root / "members") == set()


def test_what_a_killed_run_left_is_removed(store: Store) -> None:
    partial = store.root / "members" / ".k1.partial"
    partial.mkdir(parents=True)
    (partial / "old.bin").write_bytes(b"half")
    entry = store.once("members", "k1", Producer())
    assert visible(entry) == {"weights.bin", "note.json", "manifest.json"}
    assert not partial.exists()


def truncate(entry: Path) -> None:
    (entry / "weights.bin").write_bytes(bytes(range(255)))


def flip_a_bit(entry: Path) -> None:
    content = bytearray((entry / "weights.bin").read_bytes())
    content[100] ^= 4
    (entry / "weights.bin").write_bytes(content)


def remove(entry: Path) -> None:
    (entry / "weights.bin").unlink()


def put_a_folder(entry: Path) -> None:
    remove(entry)
    (entry / "weights.bin").mkdir()


def add_a_file(entry: Path) -> None:
    (entry / "extra.bin").write_bytes(b"not from here")


def remove_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def break_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_bytes(b'{"weights.bin": "\xff')


def list_in_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('["weights.bin"]')


def empty_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "weights.bin"),
        (flip_a_bit, "weights.bin"),
        (remove, "weights.bin"),
        (put_a_folder, "weights.bin"),
        (add_a_file, "extra.bin"),
        (remove_manifest, "manifest.json"),
        (break_manifest, "manifest.json"),
        (list_in_manifest, "manifest.json"),
        (empty_manifest, "note.json"),
    ],
)
def test_damage_is_named_and_mended(
    store: Store, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], named: str
) -> None:
    produce = Producer()
    entry = store.once("members", "k1", produce)
    damage(entry)
    with caplog.at_level(logging.WARNING):
        assert store.once("members", "k1", produce) == entry
    assert [r.getMessage() for r in caplog.records] == [
        f"stored file {entry / named} is damaged; making it again"
    ]
    assert produce.calls == 2
    assert (entry / "weights.bin").read_bytes() == bytes(range(256))
    assert visible(entry) == {"weights.bin", "note.json", "manifest.json"}
    caplog.clear()
    store.once("members", "k1", produce)
    assert produce.calls == 2
    assert not caplog.records


def test_entries_may_need_other_entries(store: Store) -> None:
    def outer(folder: Path) -> None:
        inner = store.once("members", "k1", Producer())
        (folder / "copy.bin").write_bytes((inner / "weights.bin").read_bytes())

    entry = store.once("predictions", "k1", outer)
    assert (entry / "copy.bin").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("below", ["", "store"])
def test_a_store_that_cannot_be_written_is_an_input_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    produce = Producer()
    with pytest.raises(InputError, match="cannot write the store"):
        Store(tmp_path / "file" / below).once("members", "k1", produce)
    assert produce.calls == 0
    assert (tmp_path / "file").read_text() == "not a folder"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.bin")


# Rust's libraries put the system's words into errors of their own.
@pytest.mark.parametrize("error", [FULL, RuntimeError("I/O: No space left on device (os error 28)")])
def test_a_full_disk_is_named_and_nothing_half_stays(store: Store, error: Exception) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise error

    def outer(folder: Path) -> None:
        store.once("members", "k1", fill)

    expected = (
        f"the disk of the store {store.root} is full; make room, and the same command goes on from here"
    )
    with pytest.raises(InputError) as caught:
        store.once("predictions", "k1", outer)
    assert str(caught.value) == expected
    assert visible(store.root / "members") == visible(store.root / "predictions") == set()


def test_a_disk_too_full_for_a_lock_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(lock: FileLock) -> None:
        raise FULL

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(InputError, match=r"the disk of the store .* is full"):
        store.once("members", "k1", Producer())


def test_other_failures_to_write_stay_what_they_are(store: Store) -> None:
    def fail(folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "data")

    with pytest.raises(PermissionError):
        store.once("members", "k1", fail)


SLOW_PRODUCTION = """
import sys, time, uuid
from pathlib import Path
from population.store import Store

root, calls, go = map(Path, sys.argv[1:])

def produce(folder):
    (calls / uuid.uuid4().hex).touch()
    (folder / "a").write_text("1")
    time.sleep(0.3)
    (folder / "b").write_text("2")

print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
entry = Store(root).once("members", "k1", produce)
print((entry / "a").read_text() + (entry / "b").read_text())
"""


def test_two_processes_at_once_make_an_entry_once(tmp_path: Path) -> None:
    calls, go = tmp_path / "calls", tmp_path / "go"
    calls.mkdir()
    command = [sys.executable, "-c", SLOW_PRODUCTION, str(tmp_path / "store"), str(calls), str(go)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert answers == ["12\n"] * 3
    assert len(list(calls.iterdir())) == 1


KILLED_PRODUCTION = """
import os, signal, sys
from pathlib import Path
from population.store import Store

def produce(folder):
    (folder / "weights.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

Store(Path(sys.argv[1])).once("members", "k1", produce)
"""


def test_a_killed_process_leaves_no_entry_and_no_lock(store: Store) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_PRODUCTION, str(store.root)], check=False, timeout=60
    )
    assert killed.returncode == -9
    assert not (store.root / "members" / "k1").exists()
    produce = Producer()
    assert visible(store.once("members", "k1", produce)) == {"weights.bin", "note.json", "manifest.json"}
    assert produce.calls == 1


def test_a_store_says_what_it_has(store: Store) -> None:
    assert not store.has("members", "k1")
    store.once("members", "k1", Producer())
    assert store.has("members", "k1")
    assert not store.has("members", "k2")
    assert not store.has("predictions", "k1")
