"""Prove your own sagas and services: simulator, crash sweep and contract check, without Ray and in seconds."""

from orchestrator.testing.contract import check_app, check_service
from orchestrator.testing.contract_report import ContractReport, Finding, Rule
from orchestrator.testing.options import Options
from orchestrator.testing.scenario import Ended, Scenario, given
from orchestrator.testing.simulator import Explored, Simulator, explore
from orchestrator.testing.story import tell
from orchestrator.testing.sweep import SweepReport, sweep
from orchestrator.testing.workload import Workload

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
