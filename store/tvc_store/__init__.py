"""A content-addressed store of tensors and blobs. Knows bytes and typed arrays; no models, no git."""
