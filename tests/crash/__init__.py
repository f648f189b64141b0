"""The crash matrix: real workers, real signals, and a fake bank that counts what really happened."""

import sys
from pathlib import Path

# The bank is an example; outside of pytest nobody else puts the examples on the path.
_EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")
if _EXAMPLES not in sys.path:
    sys.path.append(_EXAMPLES)
