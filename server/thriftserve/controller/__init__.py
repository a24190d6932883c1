"""The controller: decides which versions are served while the server runs.

configuration, base paths, operators  --ModelController-->  plan  --workers replaced-->  states, labels
"""

from thriftserve.controller.configuration import read_models, write_first_plan
from thriftserve.controller.controller import ModelController
from thriftserve.controller.operations import ModelOperations, control_port_settings, control_token

__all__ = [
    "ModelController",
    "ModelOperations",
    "control_port_settings",
    "control_token",
    "read_models",
    "write_first_plan",
]
