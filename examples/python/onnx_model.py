"""Any ONNX file, run by ONNX Runtime: its signature is read from the file.

thriftserve serve --model line=examples/python/onnx_model.py:OnnxModel?file=/models/line.onnx
"""

import re

import onnxruntime


class OnnxModel:
    """Serves the graph of the option `file`."""

    def load(self, context):
        """Read the file; the session gets this run's share of the cores, and the device."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = context.cores
        on_gpu = context.device.startswith("gpu")
        providers = ["CUDAExecutionProvider"] if on_gpu else []
        self.session = onnxruntime.InferenceSession(
            context.directory / context.options["file"], options, providers=[*providers, "CPUExecutionProvider"]
        )
        self.signatures = {
            "inputs": {tensor.name: _spec(tensor) for tensor in self.session.get_inputs()},
            "outputs": {tensor.name: _spec(tensor) for tensor in self.session.get_outputs()},
        }
        self.outputs = list(self.signatures["outputs"])

    def predict(self, inputs):
        """Run the graph. ONNX Runtime lets go of the interpreter's lock meanwhile."""
        return dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))


def _spec(tensor):
    """Return ("float32", [None, 3]) for ONNX Runtime's "tensor(float)", ["batch", 3]."""
    kind = re.fullmatch(r"tensor\((\w+)\)", tensor.type)[1]
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    return dtype, [size if isinstance(size, int) else None for size in tensor.shape]
