"""The manager's part of the API and its pages."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(tags=["manager"])
