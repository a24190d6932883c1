"""Decides what is served while the server runs, and tells what became of it.

configuration, base paths, operators --Keeper--> plan --workers replaced--> states, labels
"""

from thriftserve.controller.bootstrap import first_plan
from thriftserve.controller.configuration import models_of
from thriftserve.controller.control_port import door_of, token_of
from thriftserve.controller.controller import Keeper
from thriftserve.controller.operations import Operations

__all__ = ["Keeper", "Operations", "door_of", "first_plan", "models_of", "token_of"]
