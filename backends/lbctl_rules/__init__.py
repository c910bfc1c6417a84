"""What the built-in backends share about rules as text: scripts that hold them, problems, their removal.

No syntax of a backend is known here, and no backend of a third party needs it.
"""
