"""Settings of the whole test suite."""

import os

from hypothesis import settings

# A machine under load is slow now and then; that is no mistake of the code.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
