"""Real servers, processes and faults for the tests.

Nothing here starts anything on import. The fixtures are in `tests.servers.fixtures`; what a test or a benchmark may
use without pytest is offered here. All of it stays on the loopback interface and ends only processes that it started.
"""

from tests.servers.databases import Databases
from tests.servers.process import RunningProcess
from tests.servers.proxy import TcpProxy
from tests.servers.redis import RedisServer
from tests.servers.unavailable import Unavailable
from tests.servers.waiting import eventually

__all__ = ["Databases", "RedisServer", "RunningProcess", "TcpProxy", "Unavailable", "eventually"]
