"""The command line: prints, reads the environment, exits."""
