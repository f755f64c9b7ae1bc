"""The registry of devices and their credentials."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/v1/devices", tags=["devices"])
