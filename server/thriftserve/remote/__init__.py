"""Models behind URLs: fetched once as an archive (fetch.py), or mirrored as a base path (mirror.py).

The controller runs both as agents, in processes of their own, and itself imports no HTTP client: importing this
package imports nothing.
"""
