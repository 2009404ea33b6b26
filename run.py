"""The command line: python run.py --search goes from the training file to a verified submission.

Its options stand in competition/command_line.py.
"""

import sys

from competition.command_line import main

if __name__ == "__main__":
    sys.exit(main())
