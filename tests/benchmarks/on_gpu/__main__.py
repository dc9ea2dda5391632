"""python -m tests.benchmarks.on_gpu"""

import sys

from tests.benchmarks.on_gpu import main

if __name__ == "__main__":
    sys.exit(main())
