"""A content-addressed store of tensors and blobs.

It knows bytes and typed arrays. Absent on purpose: models, task vectors, git.
"""
