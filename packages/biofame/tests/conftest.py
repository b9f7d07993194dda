"""What the tests share."""

import sys
from pathlib import Path

# For the modules beside the tests; processes that a test spawns inherit the path.
sys.path.append(str(Path(__file__).parent))
