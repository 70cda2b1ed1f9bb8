"""What a picture of a head shows: said once, for synthetic cameras and for crops of real pictures.

Lengths in metres, head frame.
"""

HEAD_CROP_M = 0.40
"""Side of the square around a head, at the head's distance."""
CROP_CENTER = (0.0, 0.022, 0.0)
"""The point in its middle: with it, head, hair and collar fill the picture."""
