"""Takes models and adapters in: folder → objects, snapshot and vector record."""
