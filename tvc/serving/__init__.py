"""Models that are being served: where they come from, and how a running server is changed."""
