"""Finds the settings that suit a model on this machine: `thriftserve model tune PATH`."""
