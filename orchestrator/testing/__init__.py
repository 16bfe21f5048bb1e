"""Prove your own sagas and services: simulator, crash sweep and contract check, without Ray and in seconds."""

from orchestrator.testing.contract.check import check_app, check_service
from orchestrator.testing.contract.report import ContractReport, Finding, Rule
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.scenario import Ended, Scenario, given
from orchestrator.testing.simulation.simulator import Explored, Simulator, explore
from orchestrator.testing.simulation.story import tell
from orchestrator.testing.simulation.sweep import SweepReport, sweep
from orchestrator.testing.simulation.workload import Workload

__all__ = [
    "ContractReport",
    "Ended",
    "Explored",
    "Finding",
    "Options",
    "Rule",
    "Scenario",
    "Simulator",
    "SweepReport",
    "Workload",
    "check_app",
    "check_service",
    "explore",
    "given",
    "sweep",
    "tell",
]
