"""Logs of real queries: reading them, their order in time, and their sessions."""

from mifsim.data.logs.arranging import arrange
from mifsim.data.logs.format import LogFormat
from mifsim.data.logs.policy import SessionPolicy
from mifsim.data.logs.query_log import QueryLog, open_log
from mifsim.data.logs.sessions import LogPool, LogSessions

__all__ = ["LogFormat", "LogPool", "LogSessions", "QueryLog", "SessionPolicy", "arrange", "open_log"]
