"""The demo: a network trained on handwritten digits, served, and called with real scans."""
