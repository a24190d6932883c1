"""The Predict and ModelControl services: validate -> version -> run -> answer.

IDL request --> PredictHandler --> Registry --> Job --> Batcher --> Done --> IDL answer | PredictError
"""

from thriftserve.handler import at_front
from thriftserve.handler.control import ControlHandler
from thriftserve.handler.door import ErrorCounter
from thriftserve.handler.predict import PredictHandler
from thriftserve.handler.processor import PredictProcessor

__all__ = ["ControlHandler", "ErrorCounter", "PredictHandler", "PredictProcessor", "at_front"]
