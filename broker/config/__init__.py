"""Settings: one frozen, documented value for the whole broker.

Every setting is an environment variable ``BROKER_<NAME>`` or a line of ``.env``;
the environment wins. ``load_settings`` is the only reader of either. A child process
never reads them: it gets the parent's effective settings (``Settings.for_boot``).
"""

from broker.config.environment import CLIENT_TOKEN, PREFIX, load_settings
from broker.config.settings import Settings

__all__ = ["CLIENT_TOKEN", "PREFIX", "Settings", "load_settings"]
