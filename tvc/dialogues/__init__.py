"""Chat data: rows, rendering, mixing, generation, and verifiers of what was said."""
