"""The procedural demo city: street scenes in the layout of Cityscapes.

camera, light, thing        projection; time of day; polygons in metres
vehicles, heavy, people, cyclists, furniture, plants, buildings, barriers
                            models of what stands in a street
paving, streetside, scene   the layout of one street
ground, paint, develop      backdrop and shadows; drawing; texture, haze and lens
coarse, render, write       coarse polygons; one frame; files on disk
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
