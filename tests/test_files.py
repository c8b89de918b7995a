"""Files that appear whole or not at all."""

import pytest

from wbcjax.files import replacing, write_text


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent and not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "table.csv"
    write_text(path, "before")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_and_replaces(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "first")
    write_text(path, "640×480")
    assert path.read_bytes() == "640×480".encode()
