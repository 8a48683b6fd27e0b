"""`python -m trimtab.cli`, which is the trimtab command."""

import sys

from trimtab.cli._main import main

sys.exit(main())
