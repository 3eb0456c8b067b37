"""A process that opens connections, from several addresses of loopback, and leaves them as they are until it is ended.

The arguments are the port and how many; it says how many are open.
"""

import resource
import socket
import sys

ADDRESSES = 8
"""Each has ports of its own."""


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[socket.socket] = []
    for number in range(count):
        source = (f"127.0.0.{2 + number % ADDRESSES}", 0)
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=60, source_address=source))
    print(len(opened), flush=True)
    sys.stdin.read()


main()
