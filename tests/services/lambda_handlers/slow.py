"""A handler that takes long to be imported, but only the first time."""

import os
import time
from pathlib import Path

done = Path(os.environ["DONE"])
if not done.exists():
    done.touch()
    time.sleep(300)


def handler(event, context):
    return "second attempt"
