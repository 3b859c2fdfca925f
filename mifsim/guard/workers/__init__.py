"""Several processes that serve one address, each of which owns a share of the clients.

The parent (`supervisor.py`) listens, starts the workers (`worker.py`) and restarts those that die. Each pair of workers
has one connection (`link.py`), over which a worker passes on the requests of clients that the other one owns. These
connections are unnamed pairs of sockets that the parent creates: nobody else can connect to them.
"""
