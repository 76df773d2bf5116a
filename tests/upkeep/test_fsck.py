"""tvc fsck finds what is wrong, names what suffers, and mends what can be had again."""

import json
import os
import re
import shutil
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from crash.fork_server import ForkServer
from crash.world import contents, copy, ok

from tvc.domain.documents import parse_vector
from tvc.domain.snapshot import Snapshot
from tvc.repository.layout import Layout
from tvc.repository.objects import open_objects
from tvc.repository.repository import Repository
from tvc.upkeep.inspection import Inspection, inspect
from tvc.upkeep.mending import Repair, repair
from tvc_store.ids import ObjectId
from tvc_store.layout import place
from tvc_store.local import Store

DAMAGES = ("flip", "cut", "empty", "gone", "swapped")


@contextmanager
def silently(_what: str, _total: int):
    yield lambda _: None


def inspected(root: Path) -> Inspection:
    repository = Repository(Layout(root))
    with open_objects(repository.layout) as store:
        return inspect(repository, store)


def repaired(root: Path, *folders: Path) -> Repair:
    repository = Repository(Layout(root))
    with repository.locked("test"), open_objects(repository.layout) as store:
        found = inspect(repository, store)
        return repair(repository, store, found, folders=folders, progress=silently)


def objects_of(root: Path) -> list[ObjectId]:
    return list(Store.open(root / ".tvc/objects").object_ids())


def path_of(root: Path, identity: ObjectId) -> Path:
    return place(root / ".tvc/objects", identity)


def damage(root: Path, identity: ObjectId, how: str) -> None:
    path = path_of(root, identity)
    path.chmod(0o644)
    data = path.read_bytes()
    if how == "flip":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    elif how == "cut":
        path.write_bytes(data[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    else:
        other = path_of(root, next(i for i in objects_of(root) if i != identity))
        other.chmod(0o644)
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)


def outputs(server: ForkServer, world: Path) -> dict[str, dict[str, bytes]]:
    """Check every branch out and return what came."""
    found: dict[str, dict[str, bytes]] = {}
    for branch in ("main", "listen", "brief", "hedge"):
        target = world / f"out-{branch}"
        shutil.rmtree(target, ignore_errors=True)
        ok(server.run("checkout", branch, "-o", target, cwd=world / "repo"))
        found[branch] = contents(target)
    return found


def test_a_sound_repository_is_clean(server, world):
    outcome = ok(server.run("fsck", cwd=world / "repo"))
    assert outcome.output == f"checked 4 commits and {len(objects_of(world / 'repo'))} objects\n"
    facts = json.loads(ok(server.run("fsck", "--json", cwd=world / "repo")).output)
    assert facts["problems"] == facts["strays"] == facts["repaired"] == []
    assert not repaired(world / "repo").done


def test_notes_on_commits_are_no_branch_without_a_recipe(server, world):
    subprocess.run(
        ["git", "notes", "--ref=tvc-eval", "add", "-m", "{}"], cwd=world / "repo", check=True
    )
    facts = json.loads(ok(server.run("fsck", "--json", cwd=world / "repo")).output)
    assert facts["problems"] == []


@pytest.mark.parametrize(
    ("how", "step"),
    [(how, 9) for how in DAMAGES] + [pytest.param(d, 1, marks=pytest.mark.slow) for d in DAMAGES],
)
def test_every_damaged_object_is_found_named_and_mended(server, template, tmp_path, how, step):
    before = objects_of(template / "repo")
    assert len(before) > 8
    for identity in before[::step]:
        world = copy(template, tmp_path / "world")
        root = world / "repo"
        damage(root, identity, how)
        problems = inspected(root).problems
        assert identity in {problem.id for problem in problems}, how
        # Of two swapped objects, one may be the list that would say what needs the other.
        assert any(p.needed_by for p in problems if p.id == identity or how == "swapped"), problems
        mended = repaired(root)
        assert not mended.left.problems, (identity, mended)
        assert mended.done
        assert objects_of(root) == before
        assert not repaired(root).done
    assert outputs(server, world) == outputs(server, copy(template, tmp_path / "other"))


def test_all_objects_lost_at_once_come_back_from_the_folders(server, template, tmp_path):
    world = copy(template, tmp_path / "world")
    root = world / "repo"
    before = objects_of(root)
    for identity in before:
        path_of(root, identity).unlink()
    assert not repaired(root).left.problems
    assert objects_of(root) == before
    assert outputs(server, world) == outputs(server, copy(template, tmp_path / "other"))


def test_a_finding_names_tensor_vector_and_branches(server, world):
    root = world / "repo"
    ok(server.run("tag", "v1", "listen", cwd=root))
    lists = inspected(root).needs.lists
    damaged = set(objects_of(root)) - {ref.id for ref in lists}
    for identity in damaged:
        damage(root, identity, "flip")
    outcome = ok(server.run("fsck", cwd=root), 3)
    assert "needed by tensor 'a.weight' of vector 'listen' on listen, tag v1\n" in outcome.output
    assert "needed by tensor 'a.weight' of vector 'brief' on brief\n" in outcome.output
    assert "needed by file 'chat_template.jinja' of vector 'listen' on" in outcome.output
    assert "hint: tvc fsck --repair mends what can be had again" in outcome.errors
    facts = json.loads(server.run("fsck", "--json", cwd=root).output)
    assert {problem["kind"] for problem in facts["problems"]} == {"damaged"}
    assert {problem["object"] for problem in facts["problems"]} == damaged
    for ref in lists:
        damage(root, ref.id, "cut")
    outcome = ok(server.run("fsck", cwd=root), 3)
    assert "needed by the list of tensors of base 'base' on brief, hedge, listen" in outcome.output


def tensor_of(root: Path, vector: str, name: str) -> ObjectId:
    """The content of a tensor of a vector, as its list says."""
    text = (root / f"vectors/{vector}.toml").read_text()
    store = Store.open(root / ".tvc/objects")
    listed = Snapshot.from_bytes(store.read_blob(parse_vector(text, path="v").content))
    return listed.tensors[name].id


def on_branch(server: ForkServer, root: Path, branch: str) -> Path:
    ok(server.run("switch", branch, cwd=root))
    return root


def test_what_is_nowhere_stays_lost_and_a_wrong_folder_is_not_believed(server, world):
    root = on_branch(server, world / "repo", "brief")
    tensor = tensor_of(root, "brief", "a.weight")
    moved = (world / "models/brief").rename(world / "elsewhere")
    damage(root, tensor, "flip")
    models = world / "models"
    for folders in ((), (models / "hedge",), (models / "base", models / "listen")):
        mended = repaired(root, *folders)
        assert [problem.id for problem in mended.left.problems] == [tensor]
        assert path_of(root, tensor).exists()
    mended = repaired(root, moved)
    assert not mended.left.problems
    assert mended.done == (f"restored {tensor}, a.weight of {moved}",)


def test_a_difference_comes_back_as_a_difference(server, world):
    root = on_branch(server, world / "repo", "brief")
    tensor = tensor_of(root, "brief", "a.weight")
    store = Store.open(root / ".tvc/objects")
    base, size = store.reader.base(tensor), store.stored_size(tensor)
    assert base is not None
    damage(root, tensor, "flip")
    assert repaired(root).done
    assert store.reader.base(tensor) == base
    assert store.stored_size(tensor) == size


def test_a_folder_that_is_no_model_is_said_and_passed_over(server, world, tmp_path):
    root = on_branch(server, world / "repo", "brief")
    (tmp_path / "empty").mkdir()
    damage(root, tensor_of(root, "brief", "a.weight"), "gone")
    mended = repaired(root, tmp_path / "empty")
    assert not mended.left.problems
    assert "has no weights" in mended.notes[0] or str(tmp_path / "empty") in mended.notes[0]
    outcome = server.run("fsck", "--from", tmp_path / "empty", cwd=root)
    assert outcome.code == 1
    assert "--from says where to repair from: give --repair too" in outcome.errors


def test_a_base_that_moved_is_named_and_read_from_where_it_is_now(server, fresh):
    root = fresh / "repo"
    moved = (fresh / "models/base").rename(fresh / "moved")
    (problem,) = inspected(root).problems
    assert problem.kind == "source"
    assert problem.path == fresh / "models/base/model.safetensors"
    assert "tensor 'a.weight' of base 'base' on brief, hedge, listen, main" in " ".join(
        problem.needed_by
    )
    checkout = server.run("checkout", "listen", "-o", "../out", cwd=root)
    assert checkout.code == 3
    assert "model.safetensors of source 'base' is gone, needed by" in checkout.errors
    assert "tvc fsck --repair --from DIR" in checkout.errors
    assert not (fresh / "out").exists()
    outcome = server.run("fsck", cwd=root)
    assert outcome.code == 3
    assert "hint: a base that was moved or changed: tvc fsck --repair --from DIR" in outcome.errors
    done = ok(server.run("fsck", "--repair", "--from", moved, cwd=root))
    assert done.output.startswith(f"source 'base' is borrowed from {moved}\n")
    ok(server.run("checkout", "listen", "-o", "../out", "--verify", cwd=root))


def test_a_base_that_was_only_touched_is_believed_again(server, fresh):
    root = fresh / "repo"
    file = fresh / "models/base/model.safetensors"
    os.utime(file, ns=(1, 1))
    (problem,) = inspected(root).problems
    assert "has changed since it was read" in problem.text
    assert not repaired(root).left.problems
    ok(server.run("checkout", "main", "-o", "../out", "--verify", cwd=root))


def test_a_base_that_was_changed_is_not_believed_but_its_copy_is(server, fresh):
    root = fresh / "repo"
    saved = copy(fresh / "models/base", fresh / "saved")
    file = fresh / "models/base/model.safetensors"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # looks as it did
    outcome = server.run("checkout", "main", "-o", "../out", cwd=root)
    assert outcome.code == 3
    assert "no longer holds" in outcome.errors
    assert not (fresh / "out").exists()
    assert [p.kind for p in repaired(root).left.problems] == ["source"]
    assert not repaired(root, saved).left.problems
    ok(server.run("checkout", "main", "-o", "../out", "--verify", cwd=root))


def test_a_base_that_is_in_pieces_is_stored_from_what_there_is(server, fresh):
    root = fresh / "repo"
    # The fine-tunes hold the base's c and, but for listen, its b.weight; a.weight is in none.
    shutil.rmtree(fresh / "models/base")
    models = [fresh / "models" / name for name in ("listen", "brief", "hedge")]
    left = repaired(root, *models).left.problems
    assert left
    store = Store.open(root / ".tvc/objects")
    (source,) = store.sources()
    kept = {store.tensor_spec(i).dtype for i in source.tensors if store.is_stored(i)}
    assert kept == {"F32", "I32"}


def test_a_damaged_record_of_a_source_is_made_again_or_removed(server, fresh):
    root = fresh / "repo"
    (record,) = (root / ".tvc/objects/sources").iterdir()
    record.write_bytes(record.read_bytes()[:-5])
    assert server.run("checkout", "main", "-o", "../out", cwd=root).code == 3
    assert "source" in {p.kind for p in inspected(root).problems}
    assert not repaired(root).left.problems
    ok(server.run("checkout", "main", "-o", "../out", "--verify", cwd=root))
    record.write_bytes(b"rubbish")
    moved = (fresh / "models/base").rename(fresh / "moved")
    left = repaired(root).left.problems
    assert {p.kind for p in left} == {"missing"}
    assert not record.exists()
    assert not repaired(root, moved).left.problems or server


def test_adapters_are_mended_too(server, world):
    folder, root = world / "models/lora", world / "repo"
    write_lora(folder)
    ok(server.run("import", folder, "--name", "warm", "-m", "Warm", cwd=root))
    ids = set(objects_of(root)) - set(objects_of(copy(world, world.with_name("w2")) / "repo"))
    assert not ids
    for identity in objects_of(root):
        damage(root, identity, "flip")
    assert not repaired(root).left.problems
    ok(server.run("export", "warm", "-o", "../warm", cwd=root))
    assert contents(world / "warm") == contents(folder)


def write_lora(folder: Path) -> None:
    folder.mkdir()
    names = ("base_model.model.a.lora_A.weight", "base_model.model.a.lora_B.weight")
    shapes = ((2, 12), (16, 2))
    rng, header, body = np.random.default_rng(0), {"__metadata__": {"format": "pt"}}, b""
    for name, shape in zip(names, shapes, strict=True):
        data = rng.standard_normal(shape).astype(np.float32).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        body += data
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["a"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_damage_that_nobody_needs_is_removed(world):
    root = world / "repo"
    store = Store.open(root / ".tvc/objects")
    useless = store.put_blob(b"nobody needs this" * 10)
    assert not inspected(root).problems
    damage(root, useless, "flip")
    stray = root / ".tvc/objects/ab/.tvc-0011.tmp"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"half")
    foreign = root / ".tvc/objects/notes.txt"
    foreign.write_text("mine")
    index = root / ".tvc/index-0123"
    index.write_bytes(b"")
    found = inspected(root)
    assert [(p.kind, p.id, p.needed_by) for p in found.problems] == [("damaged", useless, ())]
    assert {p.path for p in found.strays} == {stray, foreign}
    mended = repaired(root)
    assert not mended.left.problems
    assert {p.path for p in mended.left.strays} == {foreign}
    assert not path_of(root, useless).exists()
    assert not stray.exists()
    assert not index.exists()
    assert foreign.exists()


def test_nothing_is_removed_while_a_list_is_lost(server, world):
    root = on_branch(server, world / "repo", "brief")
    store = Store.open(root / ".tvc/objects")
    useless = store.put_blob(b"nobody may need this" * 10)
    damage(root, useless, "flip")
    content = parse_vector((root / "vectors/brief.toml").read_text(), path="v").content
    damage(root, content, "flip")
    shutil.rmtree(world / "models/brief")
    assert {p.id for p in repaired(root).left.problems} == {useless, content}
    assert path_of(root, useless).exists()


def test_malformed_documents_and_gits_own_damage_are_found(server, world):
    root = world / "repo"
    commit_file(root, "vectors/bad.toml", "format = 1\nid = 'no'\n")
    (problem,) = inspected(root).problems
    assert problem.kind == "document"
    assert "vectors/bad.toml" in problem.text
    assert problem.needed_by == ("main", "the working tree")
    (root / "vectors/bad.toml").unlink()
    commit_file(root, "recipe.toml", "format = 1\nbase = 'base'\nterms = ['absent']\n")
    texts = [p.text for p in inspected(root).problems if p.kind == "document"]
    assert any("there is no vector 'absent' here" in text for text in texts)


def commit_file(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)
    for command in (["add", "-A"], ["commit", "-q", "-m", "by hand"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)


def test_damage_of_gits_part_is_found(world):
    root = world / "repo"
    loose = [p for p in (root / ".git/objects").glob("??/*") if p.is_file()]
    assert len(loose) > 10
    for path in loose[::4]:
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data[: len(data) // 2])
        kinds = {p.kind for p in inspected(root).problems}
        assert "git" in kinds, path
        path.write_bytes(data)
    assert not inspected(root).problems


def test_a_damaged_operation_or_journal_is_removed(server, world):
    root = world / "repo"
    first = min((root / ".tvc/operations").iterdir())
    first.write_text("{")
    (root / ".tvc/journal.json").write_text("no")
    problems = inspected(root).problems
    assert {p.path for p in problems} == {first, root / ".tvc/journal.json"}
    assert {p.kind for p in problems} == {"operation"}
    outcome = server.run("fsck", cwd=root)
    assert outcome.code == 3
    ok(server.run("fsck", "--repair", cwd=root))
    ok(server.run("switch", "brief", cwd=root))
    ok(server.run("undo", cwd=root))


def test_a_journal_is_followed_before_repairing(server, world):
    root = world / "repo"
    outcome, calls = server.count_calls("switch", "brief", cwd=copy(world, world / "w") / "repo")
    assert outcome.code == 0
    server.run("switch", "brief", cwd=root, die_at=calls.index("replace") + 3)
    assert (root / ".tvc/journal.json").exists()
    ok(server.run("fsck", cwd=root))
    ok(server.run("fsck", "--repair", cwd=root))
    assert not (root / ".tvc/journal.json").exists()


def test_sources_of_hostile_vectors_are_only_looked_at(server, world, tmp_path):
    root = on_branch(server, world / "repo", "brief")
    tensor = tensor_of(root, "brief", "a.weight")
    damage(root, tensor, "gone")
    os.mkfifo(tmp_path / "model.safetensors")
    text = (root / "vectors/brief.toml").read_text()
    for source in ("/dev", "/proc/self", "a\\u0000b", "x" * 5000, str(tmp_path), "."):
        line = f'source = "{source}"'
        changed = re.sub(r"^source = .*$", lambda _, line=line: line, text, flags=re.MULTILINE)
        assert changed != text
        (root / "vectors/brief.toml").write_text(changed)
        shutil.rmtree(world / "models/brief", ignore_errors=True)
        assert [p.id for p in repaired(root).left.problems] == [tensor]
