"""What is to be served and what became of it, in the files that a server's processes share.

keeper --plan.json--> workers --attempts/PID.json--> keeper --state.json--> every process's status and labels
"""

from thriftserve.models.state.attempts import Attempt, Failed
from thriftserve.models.state.directory import StateDir
from thriftserve.models.state.kept_registry import KeptRegistry
from thriftserve.models.state.plan import Plan, PlannedModel
from thriftserve.models.state.told import Told
from thriftserve.models.state.unmerged import UnmergedModels

__all__ = ["Attempt", "Failed", "KeptRegistry", "Plan", "PlannedModel", "StateDir", "Told", "UnmergedModels"]
