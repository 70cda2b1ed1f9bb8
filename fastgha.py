"""The public Python API: `from fastgha import Avatar`."""

from pipeline.apps.web import export_web as export_web
from pipeline.avatar.animate import Style as Style
from pipeline.avatar.animate import exaggerate as exaggerate
from pipeline.avatar.animate import write_video as write_video
from pipeline.avatar.avatar import Avatar as Avatar
from pipeline.avatar.bake import BakeConfig as BakeConfig
from pipeline.avatar.bake import bake as bake
from pipeline.avatar.camera_path import orbit as orbit
from pipeline.avatar.create import make_avatar as make_avatar
from pipeline.avatar.create import reconstruct as reconstruct
from pipeline.avatar.prune import prune as prune
from pipeline.avatar.refine import refine as refine
from pipeline.core.errors import FastGHAError as FastGHAError
from pipeline.core.types import Camera as Camera
from pipeline.core.types import ExpressionCode as ExpressionCode
from pipeline.core.types import Gaussians as Gaussians
from pipeline.core.types import View as View
from pipeline.expressions.read import read_expressions as read_expressions
from pipeline.expressions.sequences import read_sequence as read_sequence
from pipeline.io.splats import write_splats as write_splats
from pipeline.model.pretrained import load_pretrained as load_pretrained
from pipeline.model.pretrained import push_to_hub as push_to_hub
from pipeline.model.pretrained import save_pretrained as save_pretrained
from pipeline.prep.photos import Photos as Photos
from pipeline.prep.photos import Picture as Picture
from pipeline.prep.photos import estimate_views as estimate_views
from pipeline.prep.photos import read_picture as read_picture
from pipeline.render import Rendering as Rendering
from pipeline.render import render as render
from pipeline.system.assets import SEQUENCE

DEMO_SEQUENCE = SEQUENCE
"""A talking head: the file that `fastgha render` plays if no other is named."""
