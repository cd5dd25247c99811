"""What the components of root.cml run."""


def hello():
    print("hello from a component in Python")


def count():
    for n in range(3):
        print("count", n + 1)
