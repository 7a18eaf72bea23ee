"""Files that appear whole or not at all, folders likewise, JSON and hashes."""

import os

import pytest

from swapcore.files import (
    FileError,
    check_folder,
    digest,
    flatten,
    read_json,
    sha256,
    whole_file,
    whole_folder,
    write_json,
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
