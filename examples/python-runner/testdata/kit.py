"""The programs of runnertest, the cases that every runner must pass."""

import signal
import sys
import time

behaviour = sys.argv[1]
if behaviour == "prints":
    sys.stdout.write("\n".join(f"line {i}" for i in range(20_000)))
    sys.exit()
if behaviour == "ignores stop":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running", flush=True)
if behaviour == "exits with 7":
    sys.exit(7)
while behaviour in ("runs until stopped", "ignores stop"):
    time.sleep(1000)
