"""Decides what is served while the server runs, and tells what became of it.

configuration, base paths, operators --Keeper--> plan --workers replaced--> states, labels
"""

from thriftserve.controller.bootstrap import first_plan
from thriftserve.controller.configuration import models_of
from thriftserve.controller.control_port import control_port_settings, token_of
from thriftserve.controller.controller import ModelController
from thriftserve.controller.operations import ModelOperations

__all__ = ["ModelController", "ModelOperations", "control_port_settings", "first_plan", "models_of", "token_of"]
