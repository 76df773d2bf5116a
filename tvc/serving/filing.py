"""The files that go with a model's weights, in a folder of their own: config, tokenizer, template.

A server wants these as files. The folder is named after its content, so that a server that starts
beside another finds it finished, and one that was killed leaves nothing that another would take.
"""

from pathlib import Path

from tvc.checkout.folder import replaced_folder
from tvc.serving.source import Location, served
from tvc_store.durable import write_durably, write_errors

__all__ = ["filed"]


def filed(location: Location, cache: Path) -> tuple[Location, Path]:
    """Write what goes with a model's weights, if it is not there.

    Args:
        location: The model.
        cache: Where such folders are; made if it is not there.

    Returns:
        The same model by its commit, which no branch moves; and the folder.

    Raises:
        Unservable: vLLM would serve it wrongly.
        TvcError: It cannot be read, or the system refused to write.
    """
    with served(location) as source:
        source.checkout.check_servable()
        folder = cache / source.files_key[:32]
        pinned = Location(location.root.resolve(), source.commit or location.revision)
        if not folder.is_dir():
            with write_errors(cache):
                cache.mkdir(parents=True, exist_ok=True)
            with replaced_folder(folder, force=False) as unfinished:
                for path, content in source.files():
                    target = unfinished / path
                    with write_errors(target):
                        target.parent.mkdir(parents=True, exist_ok=True)
                    write_durably(target, [content])
    return pinned, folder
