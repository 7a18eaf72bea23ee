"""What of an identity shows: the shape of the neutral face in the frame of its picture, and the paint.

Several numbers of an identity can change the same place of the face, so a picture does not determine each of them.
Networks that recognise drawn people are trained with the values of this file instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import camera, mesh
from .face import ATTRIBUTES, BUILD, PAINT
from .person import Person, person

CHUNK = 256  # persons at once
FRONT = -0.6  # of Tables.inner_face: a little more than the inner face
STRAIGHT = {"scale": 1.0, "distance": 13.0}  # attributes of a neutral face that looks ahead; all others are 0


def traits(identity: Tensor) -> Tensor:
    """Build and paint of identity (n, K): (n, T) float32 in plain units, in the order of BUILD and PAINT."""
    values = person(identity).traits
    return torch.cat([values[name] for name in (*BUILD, *PAINT)], 1).float()


def neutral_face(identity: Tensor) -> Tensor:
    """Points of the front of the neutral faces of identity (n, K): (n, 3 * F) float32, x, y and z in sides of the
    picture, from the point that the picture keeps in place."""
    return torch.cat([_front(person(some)) for some in identity.split(CHUNK)])


def _front(who: Person) -> Tensor:
    t = mesh.tables(who.sliders.device)
    nil = torch.zeros(len(who.sliders), 1, dtype=torch.float64, device=who.sliders.device)
    a = {name: nil + STRAIGHT.get(name, 0.0) for name in ATTRIBUTES}
    head = mesh.blend(t, who, a)
    view = camera.place(t, head, a, 1)
    front = t.inner_face > FRONT
    points = [(v[front] - middle) * view.per_dm for v, middle in zip(head.rest, view.centre, strict=True)]
    return torch.cat(points).T.float()
