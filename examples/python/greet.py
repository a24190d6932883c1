"""The least models, and one with everything that a model may have.

thriftserve serve --model half=examples/python/greet.py:half --model greet=examples/python/greet.py:Greeter?greeting=Hi
"""


def half(inputs):
    """Return half of x."""
    return {"y": inputs["x"] / 2}


class Greeter:
    """Greets each name."""

    signatures = {
        "inputs": {"name": ("string", [None])},
        "outputs": {"text": ("string", [None])},
    }
    example = {"name": ["Ada", "Grace"]}
    input_errors = (ValueError,)

    def load(self, context):
        """Note the options; a real model reads its weights, from context.directory."""
        self.greeting = context.options.get("greeting", "Hello")
        context.logger.info("greeting on %s with %d cores", context.device, context.cores)

    def predict(self, inputs):
        """Return a text for each name."""
        names = [name.decode() for name in inputs["name"]]
        if "" in names:
            raise ValueError("a name is empty")
        return {"text": [f"{self.greeting}, {name}!" for name in names]}
