"""Set an expression by hand, with ARKit's names: python examples/faces.py head.avatar smile.png."""

import sys

import numpy as np
from PIL import Image

from fastgha import Avatar, orbit
from pipeline.faces.layouts import ARKIT_NAMES, arkit_to_code

weights = np.zeros(52, np.float32)
for name in ("mouthSmileLeft", "mouthSmileRight", "jawOpen"):
    weights[ARKIT_NAMES.index(name)] = 0.6
picture = Avatar.load(sys.argv[1]).render(arkit_to_code(weights), orbit(1, 256)[0]).color
Image.fromarray((picture.clamp(0, 1) * 255).byte().numpy()).save(sys.argv[2])
