"""The Predict and ModelControl services: validate -> version -> run -> answer.

IDL request --> PredictHandler --> Registry --> Job --> Batcher --> Done --> IDL answer | PredictError
"""

from thriftserve.service import front
from thriftserve.service.control import ControlHandler
from thriftserve.service.errors import ErrorCounter
from thriftserve.service.predict import PredictHandler
from thriftserve.service.processor import PredictProcessor

__all__ = ["ControlHandler", "ErrorCounter", "PredictHandler", "PredictProcessor", "front"]
