from tvc_store.buffers import Buffer

def encode(
    frame: Buffer,
    base: Buffer,
    itemsize: int,
    exponent_shift: int,
    exponent_mask: int,
    columns: int,
    column_terms: Buffer,
    with_rows: bool,
    first: int,
    /,
) -> bytes | None: ...
def decode(
    stored: Buffer,
    out: Buffer,
    base: Buffer,
    itemsize: int,
    exponent_shift: int,
    exponent_mask: int,
    columns: int,
    column_terms: Buffer,
    with_rows: bool,
    first: int,
    /,
) -> bool: ...
def column_sizes(
    frame: Buffer,
    base: Buffer,
    itemsize: int,
    exponent_shift: int,
    exponent_mask: int,
    columns: int,
    /,
) -> bytes: ...
def expected(
    base: Buffer,
    out: Buffer,
    left: Buffer,
    right: Buffer,
    pairs: int,
    columns: int,
    exponent: int,
    first: int,
    /,
) -> None: ...
def supported() -> list[str]: ...
def in_use() -> str: ...
def use(name: str, /) -> None: ...
