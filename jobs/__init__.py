"""The jobs of this project: the demo's, and examples of each kind of work."""
