"""What a server's helper raises where the server cannot be had on this machine; a fixture turns it into a skip."""


class Unavailable(Exception):
    """A server is neither reachable nor can it be started here; the message is the reason that the skip shows."""
