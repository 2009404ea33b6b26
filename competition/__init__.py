"""A harness for blood cell competitions: from a noisy training file to a verified zip."""

from competition.api import run as run
from competition.common.version import __version__ as __version__
