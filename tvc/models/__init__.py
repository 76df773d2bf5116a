"""Model directories, hub sources and adapters, read as hostile input and written durably."""
