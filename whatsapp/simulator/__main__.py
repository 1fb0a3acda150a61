"""`python -m whatsapp.simulator`: the simulator without Django."""

from __future__ import annotations

import argparse
import sys

from whatsapp.simulator.cli import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m whatsapp.simulator", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
