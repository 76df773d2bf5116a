"""A server reads what its settings name and what it was started on, wherever a client points."""

import pytest

from tvc.domain.errors import InputError
from tvc.vllm.roots import allowed, named_roots


def test_settings_name_one_folder_or_several(tmp_path):
    assert named_roots([], own="") == []
    assert named_roots(["/a", "/b"], own="/c") == named_roots(["/a", "/b", "/c"], own="")
    assert named_roots(str(tmp_path), own="") == [tmp_path.resolve()]  # and not each letter of it


@pytest.mark.parametrize("named", [["."], "data", "", None, 3, {}, [3], ["/a", None], [["/a"]]])
def test_what_is_no_absolute_path_is_no_folder(named):
    with pytest.raises(InputError, match="not absolute"):
        named_roots(named, own="/c")


def test_what_is_within(tmp_path):
    root = tmp_path.resolve()
    (root / "x").touch()
    (root / "link").symlink_to(root / "x")
    assert allowed(str(root / "x"), [root]) == root / "x"
    assert allowed(f"{root}/a/../x", [root]) == root / "x"
    assert allowed(str(root / "link"), [root]) == root / "link"  # which its reader refuses


@pytest.mark.parametrize("text", ["", ".", "x", "/", "/a\0b", "/" + "x" * 5000, 3, None, ["/"]])
def test_what_is_elsewhere(tmp_path, text):
    with pytest.raises(InputError, match="does not read"):
        allowed(text, [tmp_path.resolve()])


def test_links_lead_nowhere(tmp_path):
    root = (tmp_path / "root").resolve()
    root.mkdir()
    (tmp_path / "rooted").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "round").symlink_to(root / "round")
    for text in (root / "out" / "rooted", root / "out", root / ".." / "rooted", root / "round/x"):
        with pytest.raises(InputError, match="does not read"):
            allowed(str(text), [root])
