"""Fresh Debian systems: what packages and a clone meet there.

The matrix unpacks packages and runs single programs. Here apt installs packages, and their scripts run.
"""
