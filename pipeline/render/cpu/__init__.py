"""The CPU backend: numba kernels over explicit vectors.

numba's cache on disk notices changes of the file a kernel is in, not of those it takes
functions and constants from: after a change of `simd` or of what another file imports, delete
`__pycache__/*.nbi` here.
"""
