"""Functions for the tests, each a component."""

import os
import subprocess
import sys
import time

import component


def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def show():
    print([fd for fd in range(256) if is_open(fd)])
    print(component.moniker, component.url, sys.argv, os.path.basename(os.getcwd()))
    print(len(component.config), sorted(component.namespace), component.outgoing, sorted(component.handles))
    data = component.namespace["/data"]
    print(os.read(os.open("file", os.O_RDONLY, dir_fd=data), 100).decode(), os.read(component.handles[9], 100).decode())


def fail():
    {}["missing"]


def seven():
    return 7


def leave():
    sys.exit("not today")


def crash():
    os.kill(os.getpid(), 11)


def children():
    """Leaves a child behind that would keep the output open."""
    subprocess.Popen(["sleep", "1000"])


def cleanup():
    try:
        print("serving", flush=True)
        time.sleep(1000)
    finally:
        print("leaving", flush=True)
