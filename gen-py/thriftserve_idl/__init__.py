__all__ = ['ttypes', 'constants', 'Predict', 'ModelControl']
