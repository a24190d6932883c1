"""The Predict and ModelControl services: message structs in, response structs out.

request struct --> PredictHandler --> Registry --> Task --> Batcher --> TaskResult --> response | PredictError
"""

from thriftserve.service import front
from thriftserve.service.control import ControlHandler
from thriftserve.service.errors import ErrorCounter
from thriftserve.service.predict import PredictHandler, PredictProcessor

__all__ = ["ControlHandler", "ErrorCounter", "PredictHandler", "PredictProcessor", "front"]
