"""``python -m resight`` is ``resight``."""

from .cli import main

if __name__ == "__main__":
    main()
