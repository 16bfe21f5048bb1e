"""Prove your own sagas and services: simulator, crash sweep and contract check, without Ray and in seconds."""

from orchestrator.testing.options import Options
from orchestrator.testing.simulator import Explored, Simulator, explore
from orchestrator.testing.workload import Workload

__all__ = ["Explored", "Options", "Simulator", "Workload", "explore"]
