"""Chooses the engines and wires the services to them. Nothing else does."""

from holdfast.assemble.check import check_database
from holdfast.assemble.server import ROLES, House, build_app
from holdfast.assemble.worker import WORKERS, run_workers

__all__ = ["ROLES", "WORKERS", "House", "build_app", "check_database", "run_workers"]
