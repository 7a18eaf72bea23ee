"""Files that appear whole or not at all, folders likewise, JSON and hashes."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.full_disk import small_files

from swapcore.files import (
    DiskFull,
    FileError,
    check_folder,
    digest,
    flatten,
    read_json,
    read_record,
    read_rows,
    sha256,
    whole_file,
    whole_folder,
    write_json,
    write_record,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_a_finished_one_replaces_it_whole(tmp_path):
    path = tmp_path / "package"
    for content in ("old", "new"):
        with whole_folder(path) as temporary:
            assert temporary.name == "package"
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert [p.name for p in path.iterdir()] == [content]
    with pytest.raises(RuntimeError), whole_folder(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [path]


def test_damaged_json_names_the_file_and_the_remedy(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1]})
    assert read_json(tmp_path / "a.json") == {"b": [1]}
    for damage in (b"{", b"\xff"):
        (tmp_path / "a.json").write_bytes(damage)
        with pytest.raises(FileError, match="a.json: damaged .*; delete it and run again"):
            read_json(tmp_path / "a.json")


def test_a_record_that_was_changed_is_refused(tmp_path):
    path, content = tmp_path / "done.json", {"hash": "a", "minutes": 1.25, 3: [1, None, "é"]}
    write_record(path, content)
    assert read_record(path) == {"hash": "a", "minutes": 1.25, "3": [1, None, "é"]}
    for before, after in (('"a"', '"b"'), ("1.25", "1.5"), ("null", "0")):
        write_record(path, content)
        path.write_text(path.read_text().replace(before, after))
        with pytest.raises(FileError, match="done.json: damaged, or changed by hand; delete it and run again"):
            read_record(path)
    path.write_text("[1]")
    with pytest.raises(FileError, match="done.json: damaged"):
        read_record(path)
    path.write_text('{"hash": "of an older version"}')
    assert read_record(path) == {"hash": "of an older version"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"step": 1}\n{"step": "2"}\n', r"line 2: damaged \(no step\)"),
        ('{"step": 1}\n[]\n', r"line 2: damaged \(no step\)"),
        ('{"step": 1\n', "line 1: damaged"),
        ('{"step": 1}\n\xff\n', "line 2: damaged"),
    ],
)
def test_damaged_rows_are_named(text, problem, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=rf"log.jsonl: {problem}.*; delete the file and run again"):
        read_rows(tmp_path / "log.jsonl", {"step": int})


def test_a_last_row_that_is_cut_off_is_left_out_where_that_may_be(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_rows(tmp_path / "log.jsonl", {"step": int}, unfinished=True) == [{"step": 1}]
    with pytest.raises(FileError, match="line 2"):
        read_rows(tmp_path / "log.jsonl", {"step": int})


def test_a_file_in_place_of_the_output_folder_is_refused(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file: is a file; name a folder"):
        check_folder(tmp_path / "file")


def test_hashes_follow_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = sha256(path)
    assert first == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b" == sha256(path)
    path.write_bytes(b"2")
    os.utime(path, ns=(1, 1))
    assert sha256(path) != first
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "d": [2]}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "file") as temporary:
            temporary.unlink()
            handle = os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)  # as the library safetensors does
            os.close(handle)
        with whole_folder(tmp_path / "folder") as temporary:
            temporary.mkdir()
        with whole_folder(tmp_path / "package") as temporary:
            temporary.write_text("")
        modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "package")]
    finally:
        os.umask(before)
    assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


def test_a_long_name_is_written(tmp_path):
    path = tmp_path / ("é" * 120 + ".png")
    with whole_file(path) as temporary:
        temporary.write_text("a")
    assert path.read_text() == "a"


def test_a_full_disk_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(DiskFull, match=rf"{tmp_path}/a: cannot be written: No space left on device \(.* MB free in"):
        with whole_file(tmp_path / "a"), open("/dev/full", "w") as full:
            full.write("a" * 100_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_library_cannot_hide_a_full_disk(tmp_path, whole):
    """Rust names the number of the error only; other libraries not even that."""
    with pytest.raises(DiskFull, match="No space left"), whole(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with small_files(1000), pytest.raises(DiskFull, match="File too large"), whole(tmp_path / "a") as temporary:
        with suppress(OSError):
            temporary.write_bytes(bytes(2000))
        raise RuntimeError("failed")
    with pytest.raises(RuntimeError, match="^failed$"), whole(tmp_path / "a"):
        raise RuntimeError("failed")
    assert not list(tmp_path.iterdir())


def test_a_killed_replacement_leaves_no_part_of_the_old_folder(tmp_path):
    """The old folder is moved away before it is deleted, which takes time."""
    code = "import os, shutil, sys\nfrom swapcore.files import whole_folder\n"
    code += "shutil.rmtree = lambda path: os.kill(os.getpid(), 9)\n"
    code += "with whole_folder(sys.argv[1]) as new:\n    new.mkdir()\n    (new / 'new').touch()"
    package = tmp_path / "package"
    package.mkdir()
    (package / "old").touch()
    subprocess.run([sys.executable, "-c", code, package], cwd=ROOT)
    assert [p.name for p in package.iterdir()] == ["new"]
