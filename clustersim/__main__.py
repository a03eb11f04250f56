"""``python -m clustersim``."""

from clustersim.cli.main import main

if __name__ == "__main__":
    main()
