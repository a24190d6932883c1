"""A PyTorch network.

thriftserve serve --model net=examples/python/torch_model.py:Net?weights=/models/net.pt
"""

import torch


def build():
    """Return the network, untrained."""
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


class Net:
    """Gives three scores for each row of four numbers."""

    signatures = {
        "inputs": {"x": ("float32", [None, 4])},
        "outputs": {"scores": ("float32", [None, 3])},
    }
    example = {"x": [[5.1, 3.5, 1.4, 0.2]]}

    def load(self, context):
        """Read the weights onto this process's device: of the GPUs it sees its own, as number 0."""
        torch.set_num_threads(context.cores)
        self.device = "cuda:0" if context.device.startswith("gpu") else "cpu"
        self.net = build()
        weights = context.options.get("weights")
        if weights:
            self.net.load_state_dict(torch.load(context.directory / weights, weights_only=True, map_location="cpu"))
        self.net.to(self.device).eval()

    def predict(self, inputs):
        """Run the network. PyTorch lets go of the interpreter's lock inside its operations."""
        with torch.inference_mode():
            scores = torch.softmax(self.net(torch.from_numpy(inputs["x"].copy()).to(self.device)), dim=1)
        return {"scores": scores.cpu().numpy()}
