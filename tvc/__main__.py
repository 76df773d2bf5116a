"""`python -m tvc`, the same as `tvc`."""

from tvc.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
