"""Build the map between 39 face units and the expression part of MakeHuman codes (developers only).

Run it once after `build_head_asset.py`; never again for the same layout tag, as every code that
exists depends on it:

    python tools/build_expression_basis.py

The units are whitened along the principal directions of the face's movement (not of the
weights): with G the Gram matrix of the units' displacements, C the second moment of the
sampled weights and G = L L^T, L^T C L = Q S Q^T, the code is S^-1/2 Q^T L^T w. Second moments
are taken about zero, so the neutral face has the code zero.
"""

import numpy as np

from pipeline.faces.layouts import ARKIT, BASIS_FILE, EXPRESSION_UNITS
from pipeline.faces.makehuman import load_asset
from pipeline.synthetic.expressions import sample_expression

SEED = 7
SAMPLES = 40_000


def build() -> None:
    """Write the basis beside the head asset."""
    rng = np.random.default_rng(SEED)
    units = [ARKIT[n] for n in EXPRESSION_UNITS]
    w = np.stack([sample_expression(rng)[units] for _ in range(SAMPLES)]).astype(np.float64)
    asset = load_asset()
    shapes = asset.units[units].reshape(len(units), -1).astype(np.float64) * 1000
    L = np.linalg.cholesky(shapes @ shapes.T + 1e-3 * np.eye(len(units)))
    values, Q = np.linalg.eigh(L.T @ (w.T @ w / SAMPLES) @ L)
    order = np.argsort(values)[::-1]
    values, Q = values[order], Q[:, order]
    Q = Q * np.sign(Q[np.abs(Q).argmax(0), np.arange(len(units))])
    forward = (Q / np.sqrt(values)).T @ L.T
    share = values.cumsum() / values.sum()
    print(
        f"energy in 5 {share[4]:.3f}, in 20 {share[19]:.3f}; "
        f"condition {np.linalg.cond(forward):.0f}"
    )
    np.savez(
        BASIS_FILE,
        units=np.array(EXPRESSION_UNITS),
        forward=forward,
        backward=np.linalg.inv(forward),
        variance=values,
    )


if __name__ == "__main__":
    build()
