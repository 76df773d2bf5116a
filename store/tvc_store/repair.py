"""Writing objects again over what stands in their place.

For damaged or missing objects, and to copy borrowed tensors into the store. Absent on purpose:
where good bytes come from, which the callers know.
"""

from tvc_store.arrays import byte_view
from tvc_store.buffers import Buffer
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import InMemory
from tvc_store.ids import ObjectId, blob_id, tensor_id
from tvc_store.local import Store
from tvc_store.opened import Damaged
from tvc_store.writing import write_blob, write_tensor

__all__ = ["replace_damaged", "replace_damaged_blob"]


def replace_damaged(
    store: Store, spec: TensorSpec, data: Buffer, *, base: ObjectId | None = None
) -> ObjectId:
    """Write a tensor's object, whatever stands in its place.

    Args:
        store: The store.
        spec: Type and shape.
        data: Its bytes.
        base: As for `Store.put_tensor`; not used where other objects are differences from this
            one, since a difference from a difference is refused.

    Returns:
        The id, so that the caller sees whether these were the bytes that are missed.

    Raises:
        StoreError: As for `Store.put_tensor`.
    """
    content = byte_view(data)
    object_id = tensor_id(spec, content)
    origin = None if base is None or _is_base(store, object_id) else base
    elements = InMemory(content)
    write_tensor(store.path, store.reader, spec, elements, identity=object_id, base=origin)
    return object_id


def replace_damaged_blob(store: Store, data: Buffer) -> ObjectId:
    """Write a blob's object, whatever stands in its place.

    Raises:
        WriteFailed: The system refused.
    """
    content = byte_view(data)
    object_id = blob_id(content)
    write_blob(store.path, object_id, content)
    return object_id


def _is_base(store: Store, object_id: ObjectId) -> bool:
    return any(_base(store, other) == object_id for other in store.object_ids())


def _base(store: Store, object_id: ObjectId) -> ObjectId | None:
    try:
        return store.reader.base(object_id)
    except Damaged:
        return None
