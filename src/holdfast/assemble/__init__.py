"""Chooses the engines and wires the services to them. Nothing else does."""

from holdfast.assemble.server import ROLES, House, build_app
from holdfast.assemble.worker import WORKERS, run_workers

__all__ = ["ROLES", "WORKERS", "House", "build_app", "run_workers"]
