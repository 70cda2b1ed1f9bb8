from pipeline.render.render import Backend as Backend
from pipeline.render.render import available_backends as available_backends
from pipeline.render.render import render as render
from pipeline.render.render import render_sets as render_sets
from pipeline.render.types import Rendering as Rendering
