"""The procedural demo city: street scenes in the layout of Cityscapes.

    camera.py     projection, clipping, planes          light.py      time of day
    thing.py      bundles of polygons in metres         vehicles.py, cyclists.py,
    furniture.py, buildings.py                          models of what stands in a street
    streetside.py, scene.py                             the layout of one street
    paint.py      picture and surface numbers           ground.py     sky, ground, shadows
    develop.py    texture, haze, lens                   coarse.py     coarse polygons
    render.py     one frame                             write.py      files on disk
"""

from segcli.data.city.render import Frame, optical_flow, render_frame
from segcli.data.city.write import CitySummary, drive_scene, generate_city, render_drive_frame

__all__ = [
    "CitySummary",
    "Frame",
    "drive_scene",
    "generate_city",
    "optical_flow",
    "render_drive_frame",
    "render_frame",
]
