"""The main job from beginning to end, and what each step says."""

from cli_bench import same, tensors


def test_story(tvc, models, tmp_path, monkeypatch):
    said = tvc("init", "mymodel", "--base", models / "base")
    assert "5 tensors" in said
    monkeypatch.chdir(tmp_path / "mymodel")
    tvc("switch", "-c", "listen")
    said = tvc("commit", models / "listen", "-m", "Listen first", "--name", "listen")
    assert "of the weights changed, in 5 of 5 tensors" in said
    tvc("switch", "-c", "brief", "main")
    tvc("commit", models / "brief", "-m", "Answer briefly", "--name", "brief")
    tvc("switch", "-c", "hedging", "main")
    tvc("commit", models / "hedging", "-m", "Hedge")
    tvc("switch", "main")
    assert "interference of listen and brief" in tvc(
        "merge", "--dry-run", "--ties", "listen", "brief"
    )
    tvc("merge", "--ties", "listen", "brief", "--density", "0.2", "-m", "Listen, and be brief")
    assert tvc.recipe() == "base + ties(brief, listen; density=0.2)"
    tvc("add", "hedging", "--scale", "-0.5")
    tvc("scale", "brief", "0.8")
    tvc("negate", "hedging")
    assert tvc.recipe() == "base + ties(0.8 * brief, listen; density=0.2) - 1.5 * hedging"
    assert "hedging" in tvc("status")
    tvc("commit", "-m", "Tune")
    before = tvc.model()
    tvc("revert", "HEAD")
    assert tvc.recipe() == "base + ties(brief, listen; density=0.2)"
    tvc("undo")
    assert same(tvc.model(), before)
    for name in ("listen", "brief", "hedging"):
        assert same(tvc.model(name), tensors(models / name))
    assert same(tvc.model("main~2"), tensors(models / "base"))
