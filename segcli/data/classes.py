"""The label space a raw data set is prepared for: that asked for, its own, or the usual one."""

from __future__ import annotations

from segcli.data.layouts import Layout
from segcli.errors import LabelSpaceError
from segcli.labels import LabelSpace, load_label_space

# In the folder of a data set: the classes of its masks.
USER_SPACE = "labels.yaml"
NAME_THEM = f"--label-space NAME or FILE, or a {USER_SPACE} in that folder"
_USUAL = {"cityscapes": "cityscapes-19", "camvid": "camvid-11"}


def brings_own_space(layout: Layout) -> bool:
    """Whether the data set says itself which classes its masks hold."""
    return (layout.root / USER_SPACE).is_file()


def space_for(layout: Layout, asked: str | None) -> LabelSpace | None:
    """The label space to prepare `layout` for; None where nothing says what its masks hold.

    Raises:
        LabelSpaceError: an unknown or damaged label space, or one of another data set's ids.
    """
    if asked is None and brings_own_space(layout):
        asked = str(layout.root / USER_SPACE)
    asked = asked or _USUAL.get(layout.kind)
    if asked is None:
        return None
    space = load_label_space(asked)
    if layout.kind in _USUAL and space.source != layout.kind:
        raise LabelSpaceError(
            f"label space '{space.name}' is made of {space.source} ids, "
            f"this is a {layout.kind} tree",
            file=layout.root,
            hint=f"base it on {_USUAL[layout.kind]}",
        )
    return space
