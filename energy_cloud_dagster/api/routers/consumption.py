"""What meters send over HTTP."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/v1/energy", tags=["energy"])
