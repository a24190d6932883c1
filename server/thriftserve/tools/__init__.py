"""Work on a model's files: `thriftserve model check | convert | record`, and `tune` beside them."""
