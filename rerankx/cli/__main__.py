"""`python -m rerankx.cli`."""

import sys

from rerankx.cli import main

sys.exit(main())
