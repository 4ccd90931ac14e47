"""`python -m verta_local.serving STATE_FOLDER`: the background supervisor."""

from __future__ import annotations

import sys

from verta_local.serving.background import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
