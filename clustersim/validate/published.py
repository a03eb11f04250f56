"""What records of published rows have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]


class Row(BaseModel):
    """A frozen record of a published row; keys that we do not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
