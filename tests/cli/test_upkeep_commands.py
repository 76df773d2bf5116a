"""tvc fsck and gc as commands; what they find and remove is tested in tests/upkeep."""


def test_fsck_of_a_sound_repository(tvc, repo):
    assert tvc("fsck")
    facts = tvc.json("fsck")
    assert isinstance(facts, dict)


def test_fsck_names_what_is_missing(tvc, repo):
    tvc("switch", "listen")
    text = (repo / "vectors" / "listen.toml").read_text()
    identity = next(part for part in text.splitlines() if part.startswith("content"))[11:75]
    (repo / ".tvc" / "objects" / identity[:2] / identity[2:]).unlink()
    assert "listen" in tvc("fsck", code=3)
    assert "listen" in tvc("fsck", "--json", code=3)


def test_gc_keeps_what_is_needed(tvc, repo, models):
    tvc("commit", models / "formal", "-m", "x")
    tvc("undo")
    assert tvc("gc", "--dry-run")
    assert isinstance(tvc.json("gc", "--dry-run"), dict)
    tvc("gc", "--grace", "0")
    for name in ("listen", "brief", "hedging"):
        tvc.model(name)
    assert tvc.json("fsck")
