"""`python -m jaxllm`."""

import sys

from jaxllm.cli import program

sys.exit(program())
