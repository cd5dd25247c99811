#!/usr/bin/env python3
"""A component in Python: it says that it is ready, waits for Stop, and leaves."""

import os
import socket

READY = b"\x0a\x00"
STOP = b"\x0a"  # what a Stop begins with


def status(text):
    text = text.encode()[:127]
    return bytes([0x12, len(text)]) + text


# Not for children: they would keep the channel open.
channel = socket.socket(fileno=int(os.environ.pop("CMGR_LIFECYCLE_FD")))
channel.set_inheritable(False)

channel.send(READY)
channel.send(status("idle"))
print("1 serving", flush=True)

while True:
    packet = channel.recv(4096)
    if not packet:  # the manager has gone
        break
    if packet.startswith(STOP):
        break
    # Anything else is a message of a later version.

print("2 leaving", flush=True)
