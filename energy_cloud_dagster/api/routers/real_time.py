"""Live streams over WebSocket."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/v1/energy", tags=["energy"])
