"""Settings of the property tests."""

from hypothesis import settings

# How long an example takes says nothing on a machine that does other things as well.
settings.register_profile("nestscope", deadline=None)
settings.load_profile("nestscope")
