"""What all tests share: on a busy machine an example takes long, which is no failure."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
