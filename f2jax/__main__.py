"""`python -m f2jax COMMAND`."""

import sys

from f2jax.cli import main

sys.exit(main())
