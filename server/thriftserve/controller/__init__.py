"""The controller: decides which versions are served while the server runs.

configuration, base paths, operators  --ModelController-->  plan  --workers replaced-->  states, labels
"""

from thriftserve.controller.bootstrap import write_first_plan
from thriftserve.controller.configuration import read_models
from thriftserve.controller.control_port import control_port_settings, control_token
from thriftserve.controller.controller import ModelController
from thriftserve.controller.operations import ModelOperations

__all__ = [
    "ModelController",
    "ModelOperations",
    "control_port_settings",
    "control_token",
    "read_models",
    "write_first_plan",
]
