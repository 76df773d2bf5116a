"""The plugin that vLLM finds; imported by vLLM's processes alone."""
