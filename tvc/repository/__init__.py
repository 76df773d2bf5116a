"""The user's git repository; the only importer of git."""
