"""Decides what is served while the server runs, and tells what became of it.

configuration, base paths, operators --Keeper--> plan --workers replaced--> states, labels
"""

from thriftserve.keeper.configuration import models_of
from thriftserve.keeper.door import door_of, token_of
from thriftserve.keeper.keeper import Keeper
from thriftserve.keeper.operations import Operations
from thriftserve.keeper.start import first_plan

__all__ = ["Keeper", "Operations", "door_of", "first_plan", "models_of", "token_of"]
