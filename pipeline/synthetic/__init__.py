"""Synthetic heads: meshes, materials, and the pictures drawn of them."""
