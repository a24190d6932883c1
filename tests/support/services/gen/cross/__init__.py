__all__ = ['ttypes', 'constants', 'Cross']
