"""A mark tells whether two processes see the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mifsim.server.shared_storage import remove_sentinels, sees_sentinel, sentinel_file


def test_who_sees_the_mark_sees_the_folder_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    with sentinel_file(tmp_path) as sentinel:
        assert sees_sentinel(sentinel)
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    assert not sees_sentinel(sentinel)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_under_the_same_path_is_not_taken_for_it(tmp_path: Path) -> None:
    with sentinel_file(tmp_path / "here") as sentinel:
        # What a machine has that the folder is not mounted on: nothing, an empty folder, another run of its own.
        (tmp_path / "here").rename(tmp_path / "mounted")
        assert not sees_sentinel(sentinel)
        (tmp_path / "here").mkdir()
        assert not sees_sentinel(sentinel)
        with sentinel_file(tmp_path / "here"):
            assert not sees_sentinel(sentinel)
        Path(sentinel).write_text("of somebody else")
        assert not sees_sentinel(sentinel)
        Path(sentinel).unlink()
        (tmp_path / "here").rmdir()
        (tmp_path / "mounted").rename(tmp_path / "here")
        assert sees_sentinel(sentinel)


def test_the_mark_goes_where_the_run_fails_and_a_resume_sweeps_up_what_a_killed_driver_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sentinel_file(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".seen-0123456789abcdef").write_text("left")
    remove_sentinels(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sentinel", ["ftp://nowhere/.seen-x", ""])
def test_what_cannot_be_read_is_not_seen(sentinel: str) -> None:
    assert not sees_sentinel(sentinel)
