"""What holds for all tests."""

from hypothesis import settings

# A time limit for each example measures what else this machine does. A test that hangs has `timeout`.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
