"""The Predict and ModelControl services: validate -> version -> run -> answer.

IDL request --> PredictHandler --> Registry --> Session.run --> IDL answer | PredictError
"""

from thriftserve.handler.control import ControlHandler
from thriftserve.handler.door import ErrorCounter
from thriftserve.handler.predict import PredictHandler

__all__ = ["ControlHandler", "ErrorCounter", "PredictHandler"]
