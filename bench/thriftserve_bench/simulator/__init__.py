"""A discrete-event model of each server type: it predicts, and measures nothing."""
