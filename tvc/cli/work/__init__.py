"""What commands do once they are called, apart from how they are declared.

The declarations import nothing heavy, so that help and completion answer at once.
"""
