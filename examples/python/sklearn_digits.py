"""A scikit-learn model: digits of 8 x 8 pixels.

python examples/python/sklearn_digits.py                                    # trains, writes digits.joblib
thriftserve serve --model digits=examples/python/sklearn_digits.py:Digits
"""

from pathlib import Path

import joblib


class Digits:
    """Gives the probability of each digit."""

    signatures = {
        "inputs": {"pixels": ("float32", [None, 64])},
        "outputs": {"scores": ("float32", [None, 10])},
    }
    labels = list("0123456789")
    input_errors = (ValueError,)  # scikit-learn's word for NaN in the inputs

    def load(self, context):
        """Read the model from beside this file, or from the option `file`."""
        self.model = joblib.load(context.directory / context.options.get("file", "digits.joblib"))

    def predict(self, inputs):
        """Return the scores of each row."""
        return {"scores": self.model.predict_proba(inputs["pixels"])}


def train(path):
    """Train on scikit-learn's digits and write the model."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits = load_digits()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(digits.data, digits.target)
    joblib.dump(model, path)


if __name__ == "__main__":
    train(Path(__file__).with_name("digits.joblib"))
