"""Load a checkout with transformers, train on from it, and commit that: vectors on vectors.

    python 07_load_and_train_on.py [FOLDER]

What was trained on a composed model is a vector too. Its checkout gives the trained model back bit
for bit, although the model below it is itself a sum.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import tiny_models
from transformers import AutoModelForCausalLM, AutoTokenizer

WHO = {
    "GIT_AUTHOR_NAME": "Tiny Example",
    "GIT_AUTHOR_EMAIL": "tiny@example.org",
    "GIT_COMMITTER_NAME": "Tiny Example",
    "GIT_COMMITTER_EMAIL": "tiny@example.org",
}


def tvc(*arguments: str, folder: Path) -> None:
    """Run a command as one would type it; this interpreter's tvc, in a folder."""
    print("$ tvc", *arguments)
    command = Path(sys.executable).with_name("tvc")
    subprocess.run([command, *arguments], cwd=folder, env=os.environ | WHO, check=True)


def main() -> None:
    """Run the example."""
    default = Path(__file__).parent.parent / ".work"
    work = Path(sys.argv[1]).resolve() if sys.argv[1:] else default
    models = work / "models"
    tiny_models.make(models)
    folder = work / "07_load_and_train_on"
    shutil.rmtree(folder, ignore_errors=True)
    repository = folder / "mymodel"
    folder.mkdir()

    print("\n# A composed model: the base, and half of one fine-tune")
    tvc("init", "mymodel", "--base", str(models / "base"), folder=folder)
    tvc("commit", str(models / "listen"), "-m", "Listen before suggesting", folder=repository)
    tvc("scale", "listen", "0.5", folder=repository)
    tvc("commit", "-m", "Listen, half of the time", folder=repository)
    tvc("checkout", "-o", "../composed", folder=repository)

    print("\n# transformers loads the folder as it loads any other")
    composed = folder / "composed"
    model = AutoModelForCausalLM.from_pretrained(composed)
    tokenizer = AutoTokenizer.from_pretrained(composed)
    said = tokenizer("i feel lost .", return_tensors="pt", return_token_type_ids=False)
    answer = model.generate(**said, max_new_tokens=20, do_sample=False)[0]
    print(tokenizer.decode(answer, skip_special_tokens=True))
    facts = json.loads((composed / "tvc.json").read_text())
    print(f"tvc.json says what it is: {facts['recipe']}, recipe id {facts['recipe_id'][:16]}…")

    print("\n# Train on from it, and commit the result: a vector whose parent is that recipe")
    tiny_models.tune(composed, "brief", folder / "trained")
    tvc("commit", "../trained", "-m", "Be brief", "--name", "brief_after", folder=repository)
    tvc("show", folder=repository)

    print("\n# It comes back bit for bit")
    tvc("checkout", "-o", "../restored", folder=repository)
    if not tiny_models.same(folder / "trained", folder / "restored"):
        sys.exit("it did not come back")
    tiny_models.ask([models / "base", composed, folder / "restored"])


if __name__ == "__main__":
    tiny_models.settle()
    main()
