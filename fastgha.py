"""The public Python API: `from fastgha import Avatar`."""

from pipeline.animate import orbit as orbit
from pipeline.animate import write_video as write_video
from pipeline.avatar import Avatar as Avatar
from pipeline.errors import FastGHAError as FastGHAError
from pipeline.io.sequences import read_sequence as read_sequence
from pipeline.render import Rendering as Rendering
from pipeline.render import render as render
from pipeline.types import Camera as Camera
from pipeline.types import ExpressionCode as ExpressionCode
from pipeline.types import Gaussians as Gaussians
from pipeline.types import View as View
