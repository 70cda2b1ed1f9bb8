"""Make the expression sequence that comes with the package. For developers.

python tools/build_demo_sequence.py
"""

import numpy as np

from pipeline.expressions.sequences import Sequence, write_sequence
from pipeline.faces.layouts import arkit_to_code
from pipeline.synthetic.expressions import sequence
from pipeline.system.assets import SEQUENCE

FPS, SECONDS, SEED = 25.0, 5, 3

if __name__ == "__main__":
    weights = sequence(np.random.default_rng(SEED), int(FPS * SECONDS), FPS)
    write_sequence(SEQUENCE, Sequence(arkit_to_code(weights), FPS))
