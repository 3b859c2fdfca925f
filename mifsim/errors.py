"""Errors that a user can mend.

Whatever derives from `UserError` ends the command line with its message alone and exit code 2. The message
names the file, the key, the value and what would be accepted.
"""


class UserError(Exception):
    """What the user gave cannot be used; the message says what, where, and what would be accepted."""


class ConfigError(UserError, ValueError):
    """A detector's configuration, or the TOML file it is kept in, is wrong."""


class PluginError(UserError):
    """A plug-in cannot be loaded, or what it registers is not what its group takes."""


class StudyError(UserError):
    """A study file, or an override of one of its keys, is wrong."""


class DataError(UserError):
    """A data set is missing, truncated or not what it should be."""


class VictimError(UserError):
    """A model file cannot be loaded, or does not fit the data."""


class RunError(UserError):
    """A run folder is missing, not whole, or does not belong to the study."""


class ClusterError(RunError):
    """The Ray cluster failed under a run that had begun: it can be gone on with."""


class InvalidImage(ValueError):
    """What was submitted is not an image that a session can take; the session's state is as it was before.

    It is not the user's error in the sense above: a client sent it, and the session goes on.
    """


class DetectorError(RuntimeError):
    """A detector failed while it judged an image; its session ends as failed."""
